"""Parts of this package for the trainers of sentence-transformers and transformers: docs/sentence-transformers.md."""
