"""Where data enters: manifests, importers, splits, audits, packed shards, data sets and loaders."""
