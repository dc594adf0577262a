from datasets_tfds.mpdd.mpdd_dataset_builder import Builder as Builder
