// A publisher and an advertiser, from a table to an export and to nothing left, through whichever SDK is given.
//
// Keep out: how an SDK is called (v3.mjs, v2.mjs).

import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";

const UNDER_WAY = ["CREATE_PENDING", "CREATE_IN_PROGRESS"];
const PATIENCE_SECONDS = 300;

/**
 * The whole life of two parties' resources.
 *
 * @param sdk call(party, operation, input), pages(party, operation, input), isError(error, name).
 * @param world endpoint, region, prefix of all names, quota, and account_id of publisher and advertiser.
 * @returns where the export lies, by the publisher's word.
 */
export async function live(sdk, world) {
  const role = (party) => `arn:aws:iam::${world[party].account_id}:role/clean-room`;
  const named = (what) => `${world.prefix} ${what}`;
  const publisher = (operation, input) => sdk.call("publisher", operation, input);
  const advertiser = (operation, input) => sdk.call("advertiser", operation, input);

  // a dataset
  const columns = [["user", "USER_ID"], ["item", "ITEM_ID"], ["ts", "TIMESTAMP"]];
  const schema = columns.map(([columnName, type]) => ({ columnName, columnTypes: [type] }));
  const dataSource = { glueDataSource: { databaseName: "shop", tableName: "events" } };
  const dataset = (what) => ({
    name: named(what),
    description: "Ünïcode, and a\nsecond line",
    roleArn: role("publisher"),
    trainingData: [{ type: "INTERACTIONS", inputConfig: { schema, dataSource } }],
    tags: { "cost centre": "a&b=c" },
  });
  const { trainingDatasetArn } = await publisher("CreateTrainingDataset", dataset("events"));
  const shown = await publisher("GetTrainingDataset", { trainingDatasetArn });
  assert.equal(shown.status, "ACTIVE");
  assert.equal(shown.description, "Ünïcode, and a\nsecond line");
  assert.deepEqual(shown.trainingData[0].inputConfig.schema, schema);
  assert.ok(shown.createTime instanceof Date && Math.abs(Date.now() - shown.createTime) < 3_600_000);
  await publisher("TagResource", { resourceArn: trainingDatasetArn, tags: { "to be removed": "1" } });
  await publisher("UntagResource", { resourceArn: trainingDatasetArn, tagKeys: ["to be removed", "never there"] });
  const { tags } = await publisher("ListTagsForResource", { resourceArn: trainingDatasetArn });
  assert.deepEqual({ ...tags }, { "cost centre": "a&b=c" });

  // typed errors
  await fails("ConflictException", publisher("CreateTrainingDataset", dataset("events")));
  await fails("ValidationException", publisher("CreateTrainingDataset", dataset("x".repeat(64))), /'name'/);
  const foreign = { ...dataset("foreign"), roleArn: role("advertiser") };
  await fails("AccessDeniedException", publisher("CreateTrainingDataset", foreign));
  await fails("ResourceNotFoundException", advertiser("GetTrainingDataset", { trainingDatasetArn }));
  const more = [];
  const refused = await caught(async () => {
    while (more.length < world.quota) {
      more.push(await publisher("CreateTrainingDataset", dataset(`more ${more.length}`)));
    }
  });
  assert.ok(sdk.isError(refused, "ServiceQuotaExceededException"), String(refused));
  if (sdk.readsMembersOfErrors) assert.equal(refused.quotaValue, world.quota);

  // pages
  const seen = [];
  for await (const page of sdk.pages("publisher", "ListTrainingDatasets", { maxResults: 2 })) {
    assert.ok(page.trainingDatasets.length <= 2);
    seen.push(...page.trainingDatasets.map((each) => each.trainingDatasetArn));
  }
  assert.equal(seen.length, more.length + 1);
  assert.equal(new Set(seen).size, seen.length);
  for (const each of more) await publisher("DeleteTrainingDataset", each);

  // a model
  const trainingDataStartTime = new Date("2023-11-01T00:00:00Z");
  const { audienceModelArn } = await publisher("CreateAudienceModel", {
    name: named("model"), trainingDatasetArn, trainingDataStartTime,
  });
  const model = await ended(() => publisher("GetAudienceModel", { audienceModelArn }));
  assert.equal(model.status, "ACTIVE", JSON.stringify(model.statusDetails));
  assert.equal(Number(model.trainingDataStartTime), Number(trainingDataStartTime));
  await fails("ConflictException", publisher("DeleteTrainingDataset", { trainingDatasetArn }));

  // a configured model, for the advertiser too
  const { configuredAudienceModelArn } = await publisher("CreateConfiguredAudienceModel", {
    name: named("lookalikes"),
    audienceModelArn,
    outputConfig: {
      destination: { s3Destination: { s3Uri: "s3://publisher-audiences/javascript" } },
      roleArn: role("publisher"),
    },
    sharedAudienceMetrics: ["ALL"],
    audienceSizeConfig: { audienceSizeType: "PERCENTAGE", audienceSizeBins: [20, 5] },
  });
  await publisher("UpdateConfiguredAudienceModel", { configuredAudienceModelArn, minMatchingSeedSize: 25 });
  const configured = await publisher("GetConfiguredAudienceModel", { configuredAudienceModelArn });
  assert.equal(configured.minMatchingSeedSize, 25);
  assert.deepEqual([...configured.audienceSizeConfig.audienceSizeBins], [5, 20]);
  const job = {
    name: named("loyal"),
    configuredAudienceModelArn,
    seedAudience: {
      roleArn: role("advertiser"),
      dataSource: { s3Uri: "s3://advertiser-seeds/loyal.jsonl" },
    },
  };
  await fails("ResourceNotFoundException", advertiser("StartAudienceGenerationJob", job));
  const configuredAudienceModelPolicy = JSON.stringify({
    Version: "2012-10-17",
    Statement: [{
      Effect: "Allow",
      Principal: { AWS: world.advertiser.account_id },
      Action: "cleanrooms-ml:StartAudienceGenerationJob",
      Resource: configuredAudienceModelArn,
    }],
  });
  const { policyHash } = await publisher("PutConfiguredAudienceModelPolicy", {
    configuredAudienceModelArn, configuredAudienceModelPolicy, policyExistenceCondition: "POLICY_MUST_NOT_EXIST",
  });
  const policy = await publisher("GetConfiguredAudienceModelPolicy", { configuredAudienceModelArn });
  assert.equal(policy.policyHash, policyHash);
  assert.equal(policy.configuredAudienceModelPolicy, configuredAudienceModelPolicy);

  // a job of both
  const { audienceGenerationJobArn } = await advertiser("StartAudienceGenerationJob", job);
  const theirs = audienceGenerationJobArn.replace(world.advertiser.account_id, world.publisher.account_id);
  const done = await ended(() => advertiser("GetAudienceGenerationJob", { audienceGenerationJobArn }));
  assert.equal(done.status, "ACTIVE", JSON.stringify(done.statusDetails));
  assert.equal(done.startedBy, world.advertiser.account_id);
  assert.equal(done.seedAudience.dataSource.s3Uri, job.seedAudience.dataSource.s3Uri);
  assert.ok(done.metrics.recallMetric > 0 && done.metrics.recallMetric <= 1);
  assert.deepEqual(done.metrics.relevanceMetrics.map((each) => each.audienceSize.value), [5, 20]);
  const ofPublisher = await publisher("GetAudienceGenerationJob", { audienceGenerationJobArn: theirs });
  assert.equal(ofPublisher.seedAudience, undefined);
  await fails("ResourceNotFoundException", publisher("GetAudienceGenerationJob", { audienceGenerationJobArn }));

  // an export, which the publisher alone can find
  const audienceSize = { type: "PERCENTAGE", value: 20 };
  const odd = { type: "PERCENTAGE", value: 7 };
  const exporting = { name: named("best"), audienceGenerationJobArn };
  await fails("ValidationException", advertiser("StartAudienceExportJob", { ...exporting, audienceSize: odd }));
  await advertiser("StartAudienceExportJob", { ...exporting, audienceSize });
  const exportsOf = async (call, arn) => {
    const listed = await call("ListAudienceExportJobs", { audienceGenerationJobArn: arn });
    return listed.audienceExportJobs[0];
  };
  const exported = await ended(() => exportsOf(advertiser, audienceGenerationJobArn));
  assert.equal(exported.status, "ACTIVE", JSON.stringify(exported.statusDetails));
  assert.equal(exported.outputLocation, undefined);
  const { outputLocation } = await exportsOf(publisher, theirs);
  assert.match(outputLocation, /^s3:\/\/publisher-audiences\/javascript\/./);

  // every list pages
  for (const [operation, member] of [
    ["ListAudienceModels", "audienceModels"],
    ["ListConfiguredAudienceModels", "configuredAudienceModels"],
    ["ListAudienceGenerationJobs", "audienceGenerationJobs"],
    ["ListAudienceExportJobs", "audienceExportJobs"],
  ]) {
    const found = [];
    for await (const page of sdk.pages("publisher", operation, { maxResults: 1 })) found.push(...page[member]);
    assert.ok(found.some((each) => each.name.includes(world.prefix)), operation);
  }

  // nothing left
  await publisher("DeleteConfiguredAudienceModelPolicy", { configuredAudienceModelArn });
  await fails("ConflictException", publisher("DeleteConfiguredAudienceModel", { configuredAudienceModelArn }));
  await publisher("DeleteAudienceGenerationJob", { audienceGenerationJobArn: theirs });
  await gone(() => publisher("GetAudienceGenerationJob", { audienceGenerationJobArn: theirs }));
  await gone(() => advertiser("GetAudienceGenerationJob", { audienceGenerationJobArn }));
  await publisher("DeleteConfiguredAudienceModel", { configuredAudienceModelArn });
  await publisher("DeleteAudienceModel", { audienceModelArn });
  await gone(() => publisher("GetAudienceModel", { audienceModelArn }));
  await publisher("DeleteTrainingDataset", { trainingDatasetArn });
  await gone(() => publisher("GetTrainingDataset", { trainingDatasetArn }));
  return { outputLocation };

  async function fails(name, answer, pattern = /./) {
    const error = await caught(() => answer);
    assert.ok(sdk.isError(error, name), `${name} was expected: ${error}`);
    assert.match(error.message, pattern);
  }

  async function ended(look) {
    return until(async () => {
      const found = await look();
      return UNDER_WAY.includes(found.status) ? undefined : found;
    });
  }

  async function gone(look) {
    return until(async () => {
      const error = await caught(look);
      if (error === undefined) return undefined;
      if (!sdk.isError(error, "ResourceNotFoundException")) throw error;
      return true;
    });
  }
}

async function caught(work) {
  try {
    await work();
  } catch (error) {
    return error;
  }
  return undefined;
}

async function until(look) {
  const end = Date.now() + PATIENCE_SECONDS * 1000;
  while (Date.now() < end) {
    const found = await look();
    if (found !== undefined) return found;
    await pause(200);
  }
  throw new Error(`It did not end within ${PATIENCE_SECONDS} s.`);
}
