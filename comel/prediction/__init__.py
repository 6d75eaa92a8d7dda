"""A trained model's prediction for a bag, and its map as raster, picture or GeoJSON."""
