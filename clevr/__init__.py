"""Makes images and questions like CLEVR's, and turns a CLEVR v1.0 folder into TFRecords."""
