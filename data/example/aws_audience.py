"""From two AWS accounts to a downloaded audience, with boto3 only.

Arguments: URL PUBLISHER_KEY ADVERTISER_KEY, each key as ACCESS_KEY_ID:SECRET_ACCESS_KEY. On AWS leave out
`endpoint_url`, and name roles that may read and write the buckets.
"""

import json
import random
import sys
import time

import boto3

REGION = "eu-central-1"
URL, PUBLISHER_KEY, ADVERTISER_KEY = sys.argv[1:]


def clients(key):
    """Return one party's clients, and its account id."""
    key_id, _, secret = key.partition(":")
    session = boto3.Session(aws_access_key_id=key_id, aws_secret_access_key=secret, region_name=REGION)
    made = {name: session.client(name, endpoint_url=URL) for name in ("s3", "cleanroomsml", "cleanrooms", "sts")}
    return made, made["sts"].get_caller_identity()["Account"]


def wait(look):
    """Wait until a model, job or export is ready."""
    while (seen := look())["status"] in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
        time.sleep(1)
    if seen["status"] != "ACTIVE":
        sys.exit(f"{seen['name']}: {seen['statusDetails']}")
    return seen


publisher, publisher_id = clients(PUBLISHER_KEY)
advertiser, advertiser_id = clients(ADVERTISER_KEY)
publisher_role = f"arn:aws:iam::{publisher_id}:role/clean-room"
advertiser_role = f"arn:aws:iam::{advertiser_id}:role/clean-room"

# The publisher uploads its table shop.events. The first 800 of its 3,000 users prefer items below 10.
chance = random.Random(1)
rows = ["user_id,item_id,time,price"]
for user in range(3000):
    for _ in range(8):
        item = chance.randrange(10 if user < 800 and chance.random() < 0.7 else 40)
        rows.append(f"u{user},i{item},{1767225600 + chance.randrange(2_000_000)},{chance.randrange(1, 50)}")
publisher["s3"].put_object(
    Bucket=f"warehouse-{publisher_id}", Key="shop/events/day=2026-01-31/part-0.csv", Body="\n".join(rows).encode()
)

# It trains a model on it, and lets the advertiser use it in their collaboration.
roles = {"user_id": "USER_ID", "item_id": "ITEM_ID", "time": "TIMESTAMP", "price": "NUMERICAL_FEATURE"}
schema = [{"columnName": name, "columnTypes": [role]} for name, role in roles.items()]
table = {"glueDataSource": {"databaseName": "shop", "tableName": "events"}}
ml = publisher["cleanroomsml"]
dataset = ml.create_training_dataset(
    name="events",
    roleArn=publisher_role,
    trainingData=[{"type": "INTERACTIONS", "inputConfig": {"schema": schema, "dataSource": table}}],
)["trainingDatasetArn"]
model = ml.create_audience_model(name="shop", trainingDatasetArn=dataset)["audienceModelArn"]
wait(lambda: ml.get_audience_model(audienceModelArn=model))
publisher["s3"].create_bucket(
    Bucket=f"audiences-{publisher_id}", CreateBucketConfiguration={"LocationConstraint": REGION}
)
output = {"s3Destination": {"s3Uri": f"s3://audiences-{publisher_id}/shop"}}
configured = ml.create_configured_audience_model(
    name="shop lookalikes",
    audienceModelArn=model,
    outputConfig={"destination": output, "roleArn": publisher_role},
    sharedAudienceMetrics=["ALL"],
    minMatchingSeedSize=300,
    audienceSizeConfig={"audienceSizeType": "PERCENTAGE", "audienceSizeBins": [5, 10, 20]},
)["configuredAudienceModelArn"]
(collaboration,) = publisher["cleanrooms"].list_collaborations()["collaborationList"]
statement = {
    "Effect": "Allow",
    "Principal": {"AWS": f"arn:aws:iam::{advertiser_id}:root"},
    "Action": "cleanrooms-ml:StartAudienceGenerationJob",
    "Resource": configured,
    "Condition": {"StringEquals": {"cleanrooms-ml:CollaborationId": collaboration["id"]}},
}
ml.put_configured_audience_model_policy(
    configuredAudienceModelArn=configured,
    configuredAudienceModelPolicy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
)

# The advertiser uploads its customers, starts a job with them, and requests an export of the most similar tenth.
customers = "".join(json.dumps({"user_id": f"u{user}"}) + "\n" for user in range(0, 800, 2))
advertiser["s3"].create_bucket(
    Bucket=f"seeds-{advertiser_id}", CreateBucketConfiguration={"LocationConstraint": REGION}
)
advertiser["s3"].put_object(Bucket=f"seeds-{advertiser_id}", Key="spring/customers.jsonl", Body=customers.encode())
ml = advertiser["cleanroomsml"]
job = ml.start_audience_generation_job(
    name="spring",
    configuredAudienceModelArn=configured,
    seedAudience={
        "roleArn": advertiser_role,
        "dataSource": {"s3Uri": f"s3://seeds-{advertiser_id}/spring/customers.jsonl"},
    },
    collaborationId=collaboration["id"],
)["audienceGenerationJobArn"]
done = wait(lambda: ml.get_audience_generation_job(audienceGenerationJobArn=job))
print("The job is ready.", done["statusDetails"]["message"])
ml.start_audience_export_job(
    name="top", audienceGenerationJobArn=job, audienceSize={"type": "PERCENTAGE", "value": 10}
)
of_job = {"audienceGenerationJobArn": job}
wait(lambda: ml.list_audience_export_jobs(**of_job)["audienceExportJobs"][0])

# The publisher downloads the audience. It knows the job by an ARN with its own account.
ml = publisher["cleanroomsml"]
of_job = {"audienceGenerationJobArn": job.replace(f":{advertiser_id}:", f":{publisher_id}:")}
(export,) = ml.list_audience_export_jobs(**of_job)["audienceExportJobs"]
bucket, _, prefix = export["outputLocation"].removeprefix("s3://").partition("/")
users = []
pages = publisher["s3"].get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
for entry in (entry for page in pages for entry in page["Contents"] if entry["Key"].endswith(".jsonl")):
    body = publisher["s3"].get_object(Bucket=bucket, Key=entry["Key"])["Body"]
    users += [json.loads(line)["user_id"] for line in body.iter_lines()]
print(f"Downloaded {len(users)} users.")
