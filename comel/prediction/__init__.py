"""A trained model looks at a bag; the prediction, and its map as raster, picture or GeoJSON."""
