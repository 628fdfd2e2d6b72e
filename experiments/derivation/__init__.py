"""The source documents' derivations, executed line by line."""
