"""How attention heads share keys and values, and how much each counts for an instance."""
