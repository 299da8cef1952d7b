"""The spine, in order: extract, encode, frequency, select, fit, score; a file and a public function each."""
