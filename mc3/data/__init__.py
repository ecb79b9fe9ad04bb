"""From the publishers' files to clips: annotations, manifest, shards, batches."""
