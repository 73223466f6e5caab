"""Makes images and questions like CLEVR's, and TFRecords of a CLEVR v1.0 folder."""
