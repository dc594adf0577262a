from datasets_tfds.dtd.dtd_dataset_builder import Builder as Builder
