"""The Media API on the server's side: a module a noun, each call a small function on the catalogue."""
