"""Applications that commit by themselves, in the ways of their frameworks, with the middleware around them."""
