from datasets_tfds.btad.btad_dataset_builder import Builder as Builder
