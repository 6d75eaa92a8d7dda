"""What clients send: bodies, uploads, and the checks of received files."""
