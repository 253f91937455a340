"""The ground floor, which knows no network and no image: errors, files, processes."""
