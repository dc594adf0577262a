from datasets_tfds.hsp.hsp_dataset_builder import Builder as Builder
