"""The S3 API over HTTP: an account's own buckets, and its warehouse as a bucket.

Lives here: the order of the steps of a request, and the operations on buckets and objects.
Add here when another operation of S3 is served.
Keep out: S3's protocol (`aws.s3`), and where objects are stored (`storage`).
"""
