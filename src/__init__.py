"""Makes `src.api.app` this folder, even if another package named `src` is installed."""
