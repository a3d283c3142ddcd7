"""Real servers, real sockets, and what a client of them sees."""
