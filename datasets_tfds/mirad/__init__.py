from datasets_tfds.mirad.mirad_dataset_builder import Builder as Builder
