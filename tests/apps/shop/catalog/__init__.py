"""The shop's only application: products, uploads, and views that exercise a server."""
