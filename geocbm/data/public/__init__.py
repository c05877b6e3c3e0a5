"""Public data sets read into the schema of `geocbm.data.table`: no downloader, only the files a user has fetched."""
