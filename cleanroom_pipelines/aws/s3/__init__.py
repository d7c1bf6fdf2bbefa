"""The S3 API's protocol: routing, parameters, XML, checksums and bodies in signed chunks.

Lives here: parsing what S3 clients send and writing what they read, by botocore's model of S3. No I/O.
Add here when S3's protocol gets another form that clients use.
Keep out: buckets and objects (`server.s3`, `storage`), and signatures of requests (`aws.signing`).
"""
