"""Serve rewards over HTTP in the shapes of vLLM, SGLang, OpenRLHF and Text Embeddings Inference."""
