"""Small helpers that any module may import. They import nothing else of plm-core but errors and hookspecs."""
