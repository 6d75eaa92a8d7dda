"""One slide to one bag: settings, regions, appearance, contract and overlay."""
