"""Where receivers take messages from."""
