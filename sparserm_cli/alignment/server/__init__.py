"""Serve rewards over HTTP in the shapes of vLLM, SGLang and OpenRLHF."""
