"""What a person looks at: pictures that compare teacher and student."""
