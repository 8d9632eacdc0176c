"""Small helpers that any module may import; none imports another part of plm-core but its errors."""
