"""The rules, pure: no I/O, no thread, no loop, no clock of its own. Both adapters only translate."""
