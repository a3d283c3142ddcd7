"""Applications that the tests of integrations run on real servers."""
