"""What the report shows: texts, contexts, tables, stored scores."""
