from datasets_tfds.elpv.elpv_dataset_builder import Builder as Builder
