"""Reading data: files, row shapes, chat templates, the prompt/response boundary and grouped splits."""
