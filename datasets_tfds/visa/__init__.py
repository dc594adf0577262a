from datasets_tfds.visa.visa_dataset_builder import Builder as Builder
