"""Every on-disk artifact: names, types, versions, plans, receipts, locks. Never imports torch."""
