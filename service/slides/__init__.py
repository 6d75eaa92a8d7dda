"""The slides that the service shows: folders, finder, pictures, strongest tiles."""
