from datasets_tfds.folder.folder_dataset_builder import Builder as Builder
