// Objects through the S3 client of the AWS SDK for JavaScript v3: node s3.mjs < world.json

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Readable } from "node:stream";

import * as s3 from "@aws-sdk/client-s3";

const world = JSON.parse(readFileSync(0, "utf8"));
const clients = {};
for (const party of ["publisher", "advertiser"]) {
  const { key_id: accessKeyId, secret: secretAccessKey } = world[party];
  clients[party] = new s3.S3Client({
    endpoint: world.endpoint,
    region: world.region,
    credentials: { accessKeyId, secretAccessKey },
    forcePathStyle: true,
  });
}
const call = (name, input, party = "advertiser") => clients[party].send(new s3[`${name}Command`](input));
const Bucket = "scripted";
const Key = "day=1/a+b@c ü.jsonl";
const Body = '{"user_id": "a"}\n';

await call("CreateBucket", { Bucket });
await call("PutObject", { Bucket, Key, Body, ContentType: "application/json", Metadata: { season: "spring" } });
const found = await call("GetObject", { Bucket, Key });
assert.equal(await found.Body.transformToString(), Body);
assert.equal(found.ContentType, "application/json");
assert.deepEqual({ ...found.Metadata }, { season: "spring" });
const ranged = await call("GetObject", { Bucket, Key, Range: "bytes=2-8" });
assert.equal(await ranged.Body.transformToString(), "user_id");

// a stream is sent in chunks, with its checksum in the trailer
for (const ChecksumAlgorithm of ["CRC32", "CRC32C", "CRC64NVME", "SHA256"]) {
  const content = Buffer.alloc(300_000, ChecksumAlgorithm);
  const stream = Readable.from([content.subarray(0, 100_000), content.subarray(100_000)]);
  const input = { Bucket, Key: "streamed", Body: stream, ContentLength: content.length, ChecksumAlgorithm };
  await call("PutObject", input).catch((error) => {
    // an algorithm that this SDK cannot compute without another package
    assert.match(String(error), /CRT|crc64/i, ChecksumAlgorithm);
    return null;
  });
}
const streamed = await call("GetObject", { Bucket, Key: "streamed" });
assert.equal((await streamed.Body.transformToByteArray()).length, 300_000);
assert.equal(streamed.ContentEncoding, undefined);

const { UploadId } = await call("CreateMultipartUpload", { Bucket, Key: "parts" });
const { ETag } = await call("UploadPart", { Bucket, Key: "parts", UploadId, PartNumber: 1, Body: "one part" });
const MultipartUpload = { Parts: [{ PartNumber: 1, ETag }] };
await call("CompleteMultipartUpload", { Bucket, Key: "parts", UploadId, MultipartUpload });
await call("CopyObject", { Bucket, Key: "copy", CopySource: `${Bucket}/parts` });

const listed = [];
for await (const page of s3.paginateListObjectsV2({ client: clients.advertiser, pageSize: 1 }, { Bucket })) {
  listed.push(...(page.Contents ?? []).map((each) => each.Key));
}
assert.deepEqual(listed, ["copy", Key, "parts", "streamed"]);

const fails = async (name, promise) => {
  const error = await promise.then(() => assert.fail(`${name} did not come`), (raised) => raised);
  assert.equal(error.name, name);
};
await fails("NoSuchKey", call("GetObject", { Bucket, Key: "never" }));
await fails("NotFound", call("HeadObject", { Bucket, Key: "never" }));
await fails("NoSuchBucket", call("ListObjectsV2", { Bucket }, "publisher"));
const theirs = `warehouse-${world.publisher.account_id}`;
await fails("AccessDenied", call("GetObject", { Bucket: theirs, Key: "shop/events/a.parquet" }));

const gone = await call("DeleteObjects", { Bucket, Delete: { Objects: listed.map((each) => ({ Key: each })) } });
assert.equal(gone.Deleted.length, listed.length);
await call("DeleteBucket", { Bucket });
const { Buckets } = await call("ListBuckets", {});
assert.ok(!Buckets.some((each) => each.Name === Bucket));
console.log(JSON.stringify({ listed }));
