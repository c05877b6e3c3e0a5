"""Other forms of a data set: folders of photographs, shards of WebDataset, data sets of Hugging Face."""
