"""Wrong configurations: ``check`` and ``fit`` refuse each with one line that names the key, and nothing is loaded."""
# ruff: noqa: E501 - one row a case

import contextlib
import copy
import functools
import io
import json
import os
import time
from pathlib import Path
from threading import Lock

import yaml

from moe_tune.faults.case import Case

ROOT = Path(__file__).parents[2]
PATIENCE = 5.0
"""Seconds within which ``check`` has to find a mistake."""
HEAD, LOSS, SOURCE = "model.head", "model.losses", "data.source"
NAN, INF = float("nan"), float("inf")


def head(name, **options):
    return {HEAD: {"class_path": name, "init_args": options} if options else {"class_path": name}}


def loss(name, **options):
    return {LOSS: {"mine": {"class_path": name, "init_args": options}}}


def source(name, **options):
    return {SOURCE: {"class_path": name, "init_args": options}}


def callback(name, **options):
    return {"trainer.callbacks": [{"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": options}]}


def logger(name, **options):
    return {"trainer.logger": {"class_path": name, "init_args": options}}


def optimizer(name="torch.optim.AdamW", **options):
    return {"optimizer": {"class_path": name, "init_args": {"lr": 0.01} | options}}


def scheduler(name, **options):
    return {"lr_scheduler": {"class_path": f"torch.optim.lr_scheduler.{name}", "init_args": options}}


WANDB = "moe_tune.tracking.wandb_logger.RouterWandbLogger"
EXPERIMENT = "name: mine\nclaim: none\nbase: [configs/nano.yaml, configs/debug/tiny.yaml]\n"
ARMS = "arms: {a: [], b: []}\n"
COMMAND = "command: [python, -m, moe_tune, fit, --config, nano, --test_after_fit=false, --config, '${args_json}']\n"
SWEEP = f"method: grid\n{COMMAND}"

KEYS = [
    # name, what is changed (dotted key: value), what the message has to contain
    ("a section that does not exist", {"modle.scope": "all"}, "modle"),
    ("a key of data misspelt", {"data.batchsize": 8}, "batch_size"),
    ("a key of model misspelt", {"model.layer": "all"}, "layers"),
    ("a key of the trainer misspelt", {"trainer.max_epoch": 3}, "max_epochs"),
    ("a key of the base model misspelt", {"model.base.dtyp": "float32"}, "dtype"),
    ("a key of the answer path misspelt", {"model.answer_path.limits_gb": 3}, "limit_gb"),
    ("a key of a head misspelt", head("TemperatureHead", tua=0.5), "tau"),
    ("a key of a loss misspelt", loss("ZLoss", wieght=0.5), "weight"),
    ("a key of a source misspelt", source("NanoQuiz", trian=100), "train"),
    ("a key at the top misspelt", {"run_root": "x"}, "runs_root"),
    # words for others
    ("a text for a number", {"data.batch_size": "many"}, "data.batch_size"),
    ("a fraction for a whole number", {"data.batch_size": 1.5}, "data.batch_size"),
    ("a list for a number", {"data.few_shot": [1, 2]}, "data.few_shot"),
    ("a mapping for a text", {"data.protocol": {"a": 1}}, "data.protocol"),
    ("a word for a switch", {"data.official": "maybe"}, "data.official"),
    ("null for a number", {"data.batch_size": None}, "data.batch_size"),
    ("null for the source", {"data.source": None}, "data.source"),
    ("null for the head", {"model.head": None}, "model.head"),
    ("null for losses", {"model.losses": None}, "model.losses"),
    ("a list for losses", {"model.losses": [{"class_path": "ZLoss"}]}, "model.losses"),
    ("a loss that is a number", {"model.losses": {"z": 0.1}}, "model.losses"),
    ("text for a section", {"model": "nano"}, "model"),
    ("a list for the trainer", {"trainer": [1]}, "trainer"),
    ("a number for the optimiser", {"optimizer": 0.1}, "optimizer"),
    # classes
    ("an unknown head", head("TemperatureHaed"), "TemperatureHead"),
    ("an unknown loss", loss("ZLos"), "ZLoss"),
    ("an unknown source", source("LocalFile", path="x"), "LocalFiles"),
    ("an unknown text", {"data.test_sources": {"mine": {"class_path": "LocalTexts"}}}, "LocalText"),
    ("a loss for a head", head("ZLoss"), "model.head"),
    ("a head for a loss", loss("IdentityHead"), "model.losses"),
    ("an unknown optimiser", optimizer("torch.optim.AdamWW"), "AdamW"),
    ("a head for an optimiser", optimizer("moe_tune.heads.jitter.JitterHead"), "optimizer"),
    ("an unknown scheduler", scheduler("StepsLR", step_size=1), "StepLR"),
    ("an unknown callback", callback("ModelCheckpont"), "ModelCheckpoint"),
    ("an unknown logger", logger("lightning.pytorch.loggers.CSVLoger", save_dir="."), "CSVLogger"),
    ("an abstract head", head("RouterHead"), "model.head"),
    ("a required option of a head left out", head("FixedKHead"), "k"),
    ("a required option of a source left out", source("LocalFiles"), "path"),
    ("a required option of a scheduler left out", scheduler("StepLR"), "step_size"),
    # the model
    ("task weight -1", {"model.task_weight": -1.0}, "task_weight"),
    ("task weight nan", {"model.task_weight": NAN}, "task_weight"),
    ("task weight inf", {"model.task_weight": INF}, "task_weight"),
    ("task weight 0 and no losses", {"model.task_weight": 0.0}, "task_weight"),
    ("an unknown task", {"model.task": "quizz"}, "quiz"),
    ("an unknown task loss", {"model.task_loss": "letter"}, "letters"),
    ("an unknown scope", {"model.scope": "answers"}, "answer"),
    ("an unknown routing dtype", {"model.routing_dtype": "float64"}, "float32"),
    ("layers that are no word", {"model.layers": "first-5"}, "last-N"),
    ("a word for layers that counts nothing", {"model.layers": "last-few"}, "layers"),
    ("last-0", {"model.layers": "last-0"}, "layers"),
    ("a layer out of range", {"model.layers": [0, 99]}, "99"),
    ("a layer below 0", {"model.layers": [-1]}, "-1"),
    ("no layers", {"model.layers": []}, "layers"),
    ("a layer twice", {"model.layers": [1, 1]}, "layers"),
    ("an answer path that is no word", {"model.answer_path.use": "sometimes"}, "model.answer_path.use"),
    ("a cache of negative size", {"model.answer_path.limit_gb": -1.0}, "limit_gb"),
    ("a cache of size nan", {"model.answer_path.limit_gb": NAN}, "limit_gb"),
    ("a cache folder that is a file", {"model.answer_path.folder": __file__}, "model.answer_path.folder"),
    ("a base model that is not there", {"model.base.path": "./no/such/model"}, "no/such/model"),
    ("a base model of no shape", {"model.base.path": "a//b c"}, "model.base"),
    ("an empty base model", {"model.base.path": ""}, "model.base.path"),
    ("an unknown dtype", {"model.base.dtype": "float12"}, "float16"),
    ("an unknown implementation of experts", {"model.base.experts_implementation": "fast"}, "eager"),
    ("quantised to 3 bits", {"model.base.quantise": 3}, "quantise"),
    ("an unknown family", {"model.base.path": "random", "model.base.family": "olmo3"}, "olmoe", 4),
    ("a seed of random weights below 0", {"model.base.path": "random", "model.base.seed": -1}, "seed"),
    ("a tokenizer that is not there", {"model.base.tokenizer": "./no/such/tokenizer"}, "tokenizer"),
    ("a teacher that no loss reads", {"model.teacher": {"path": "nano"}}, "teacher"),
    (
        "a teacher that is not there",
        {"model.teacher": {"path": "./no/teacher"}} | loss("RouterDistillationLoss"),
        "no/teacher",
    ),
    # heads
    ("tau 0", head("TemperatureHead", tau=0.0), "tau"),
    ("tau -1", head("TemperatureHead", tau=-1.0), "tau"),
    ("tau nan", head("TemperatureHead", tau=NAN), "tau"),
    ("tau inf", head("TemperatureHead", tau=INF), "tau"),
    ("tau_end 0", head("TemperatureHead", mode="scheduled", tau_end=0.0), "tau_end"),
    ("an unknown mode of a head", head("TemperatureHead", mode="learnt"), "learned"),
    ("k 0", head("FixedKHead", k=0), "k"),
    ("k above the experts", head("FixedKHead", k=1000), "1000"),
    ("k of a layer above the experts", head("FixedKHead", k={0: 1000}), "1000"),
    ("k of a layer that has no head", head("FixedKHead", k={99: 2}), "99"),
    ("ks empty", head("EntropyKHead", ks=[]), "ks"),
    ("ks 0", head("EntropyKHead", ks=[0, 4]), "ks"),
    ("p 0", head("TopPHead", p=0.0), "p"),
    ("p 2", head("TopPHead", p=2.0), "p"),
    ("p nan", head("TopPHead", p=NAN), "p"),
    ("slots 0", head("ReluHead", slots=0), "slots"),
    ("rank 0", head("LowRankHead", rank=0), "rank"),
    ("rank -4", head("LowRankHead", rank=-4), "rank"),
    ("alpha inf", head("LowRankHead", alpha=INF), "alpha"),
    ("width 0", head("MlpHead", width=0), "width"),
    ("eps -1", head("JitterHead", eps=-1.0), "eps"),
    ("eps nan", head("JitterHead", eps=NAN), "eps"),
    ("gamma inf", head("LossFreeBiasHead", gamma=INF), "gamma"),
    ("ema 1.5", head("QuantileBalanceHead", ema=1.5), "ema"),
    ("beta of a moving mean 2", head("DefaultExpertHead", beta=2.0), "beta"),
    ("chunk 0", head("DenseMixerHead", chunk=0), "chunk"),
    ("beta nan", head("AccuracyBiasHead", beta=NAN), "beta"),
    ("b_max -1", head("AccuracyBiasHead", b_max=-1.0), "b_max"),
    ("n_min -1", head("AccuracyBiasHead", n_min=-1), "n_min"),
    ("shrinkage -1", head("AccuracyBiasHead", shrinkage=-1.0), "shrinkage"),
    ("neighbours 0", head("NeighbourMixHead", neighbours=0), "neighbours"),
    ("alpha 3 of a mix", head("NeighbourMixHead", alpha=3.0), "alpha"),
    ("promote -1", head("SteerHead", promote=-1), "promote"),
    ("promote and suppress above the experts", head("SteerHead", promote=900, suppress=900), "promote"),
    ("quantile 2", head("Guard", head={"class_path": "RetunedHead"}, quantile=2.0), "quantile"),
    ("strength nan", head("Strength", head={"class_path": "RetunedHead"}, strength=NAN), "strength"),
    ("an expert that is not there", head("MaskedExperts", experts={0: [1000]}), "1000"),
    ("all experts masked", head("MaskedExperts", experts={6: list(range(64)), 7: list(range(64))}), "experts"),
    ("experts of a layer that is not there", head("MaskedExperts", experts={99: [1]}), "99"),
    ("an empty stack", head("Stack", parts={}), "parts"),
    ("runs that are not there", head("MeanOfRuns", runs=["no/such/run"]), "no/such/run", 3),
    ("no runs", head("MeanOfRuns", runs=[]), "runs"),
    ("routes that are not there", head("RoutesHead", file="no/routes.parquet"), "no/routes.parquet", 3),
    # losses
    ("a loss's weight nan", loss("ZLoss", weight=NAN), "weight"),
    ("a loss's weight inf", loss("ZLoss", weight=INF), "weight"),
    ("a loss's weight is a text", loss("ZLoss", weight="much"), "weight"),
    ("an unknown schedule", loss("ZLoss", schedule="exponential"), "linear"),
    ("a warm-up of a loss above 1", loss("ZLoss", warmup=1.5), "warmup"),
    ("a warm-up of a loss below 0", loss("ZLoss", warmup=-0.5), "warmup"),
    ("a loss's weight_end nan", loss("ZLoss", schedule="linear", weight_end=NAN), "weight_end"),
    ("a loss's layer that has no head", loss("ZLoss", layers=[99]), "99"),
    ("a loss of no layers", loss("ZLoss", layers=[]), "layers"),
    ("an unknown scope of a loss", loss("ZLoss", scope="answers"), "answer"),
    ("a loss's name that is no word", {LOSS: {"a b": {"class_path": "ZLoss"}}}, "a b"),
    ("a loss on a head with nothing to train", head("TemperatureHead") | loss("ZLoss"), "losses"),
    ("a loss that a head cannot have", head("FixedKHead", k=4) | loss("ReluL1Loss"), "losses"),
    ("tau of a loss 0", loss("DeadExpertHingeLoss", tau=0.0), "tau"),
    ("temperature of distillation 0", loss("RouterDistillationLoss", temperature=0.0), "temperature"),
    ("steps of an oracle 0", loss("OracleDistillationLoss", steps=0), "steps"),
    ("rate of an oracle nan", loss("OracleDistillationLoss", rate=NAN), "rate"),
    ("routes 0", loss("RouteRegretLoss", routes=0), "routes"),
    ("margin -1", loss("RouteRegretLoss", margin=-1.0), "margin"),
    ("seed of routes -1", loss("RouteRegretLoss", seed=-1), "seed"),
    ("momentum 1.5", loss("MarginalEntropyLoss", momentum=1.5), "momentum"),
    ("beta_c nan", loss("MutualInformationLoss", beta_c=NAN), "beta_c"),
    # the data
    ("batch size 0", {"data.batch_size": 0}, "data.batch_size"),
    ("batch size -8", {"data.batch_size": -8}, "data.batch_size"),
    ("batch size of evaluation 0", {"data.eval_batch_size": 0}, "data.eval_batch_size"),
    ("few-shot -1", {"data.few_shot": -1}, "data.few_shot"),
    ("workers -1", {"data.num_workers": -1}, "data.num_workers"),
    ("workers 1 million", {"data.num_workers": 1_000_000}, "data.num_workers"),
    ("longest prompt 0", {"data.max_length": 0}, "data.max_length"),
    ("limit of training 0", {"data.limit_train": 0}, "data.limit_train"),
    ("limit of validation -1", {"data.limit_validation": -1}, "data.limit_validation"),
    ("limit of test 0", {"data.limit_test": 0}, "data.limit_test"),
    ("an unknown rule for bad rows", {"data.on_bad_row": "skip"}, "drop"),
    ("the test split to train on", {"data.train_split": "test"}, "train_split"),
    ("an unknown protocol", {"data.protocol": "nano_quizz"}, "nano_quiz"),
    ("a protocol twice", {"data.test_protocols": ["nano_textbook", "nano_textbook"]}, "test_protocols"),
    ("a protocol file that is not there", {"data.protocol": "./mine.yaml"}, "mine.yaml"),
    ("questions of training 0", source("NanoQuiz", train=0), "train"),
    ("questions of training -1", source("NanoQuiz", train=-1), "train"),
    ("a seed of the order -1", {"data.seed": -1}, "data.seed"),
    ("a seed of the order above 63 bits", {"data.seed": 2**70}, "data.seed"),
    ("a source's seed -1", source("NanoQuiz", seed=-1), "seed"),
    ("a revision that is no commit", source("HubQuestions", path="a/b", revision="main"), "revision"),
    ("counts of choices 1", source("LocalFiles", path=".", choice_counts=[1]), "choice_counts"),
    ("counts of choices empty", source("LocalFiles", path=".", choice_counts=[]), "choice_counts"),
    ("answers from 2", source("LocalFiles", path=".", answers_from=2), "answers_from"),
    ("an unknown column", source("LocalFiles", path=".", columns={"questoin": "q"}), "question"),
    ("rotated by -1", source("RotatedChoices", source={"class_path": "NanoQuiz"}, by=-1), "by"),
    ("an unknown task of a suite", source("OlmoEvalSuite", task="arc_eazy"), "arc_easy"),
    ("a further source's name that is no word", {"data.test_sources": {"a/b": {"class_path": "NanoQuiz"}}}, "a/b"),
    (
        "a further source of a protocol's name",
        {"data.test_sources": {"nano_textbook": {"class_path": "NanoQuiz"}}},
        "nano_textbook",
    ),
    (
        "documents 0",
        {"data.test_sources": {"t": {"class_path": "NanoText", "init_args": {"documents": 0}}}},
        "documents",
    ),
    (
        "tokens of a text 0",
        {"data.test_sources": {"t": {"class_path": "NanoText", "init_args": {"max_tokens": 0}}}},
        "max_tokens",
    ),
    (
        "new tokens 0",
        {
            "data.test_sources": {
                "t": {"class_path": "LocalShortAnswers", "init_args": {"path": "x.jsonl", "max_new_tokens": 0}}
            }
        },
        "max_new_tokens",
    ),
    (
        "a template without the question",
        {
            "data.test_sources": {
                "t": {"class_path": "LocalShortAnswers", "init_args": {"path": "x.jsonl", "template": "Answer:"}}
            }
        },
        "template",
    ),
    ("text to train on that is not there", {"model.task": "next_token", "model.scope": "all"}, "data.text"),
    (
        "blocks of 0 tokens",
        {
            "data.text": {"source": {"class_path": "NanoText", "init_args": {"split": "train"}}, "block": 0},
            "model.task": "both",
            "model.scope": "all",
        },
        "block",
    ),
    (
        "a text's weight nan",
        {
            "data.text": {"source": {"class_path": "NanoText", "init_args": {"split": "train"}}, "weight": NAN},
            "model.task": "both",
            "model.scope": "all",
        },
        "weight",
    ),
    (
        "a text's weight -1",
        {
            "data.text": {"source": {"class_path": "NanoText", "init_args": {"split": "train"}}, "weight": -1.0},
            "model.task": "both",
            "model.scope": "all",
        },
        "weight",
    ),
    # the trainer
    ("no epochs", {"trainer.max_epochs": 0}, "max_epochs"),
    ("-5 epochs", {"trainer.max_epochs": -5}, "max_epochs"),
    ("epochs without end", {"trainer.max_epochs": -1}, "max_epochs"),
    ("0 steps", {"trainer.max_steps": 0}, "max_steps"),
    ("-2 steps", {"trainer.max_steps": -2}, "max_steps"),
    ("min above max epochs", {"trainer.min_epochs": 5}, "min_epochs"),
    ("an accumulation of 0", {"trainer.accumulate_grad_batches": 0}, "accumulate_grad_batches"),
    ("an accumulation of -2", {"trainer.accumulate_grad_batches": -2}, "accumulate_grad_batches"),
    ("clipping at -1", {"trainer.gradient_clip_val": -1.0}, "gradient_clip_val"),
    ("clipping at nan", {"trainer.gradient_clip_val": NAN}, "gradient_clip_val"),
    ("clipping at inf", {"trainer.gradient_clip_val": INF}, "gradient_clip_val"),
    ("an unknown way to clip", {"trainer.gradient_clip_algorithm": "normal"}, "norm"),
    ("a log interval of 0", {"trainer.log_every_n_steps": 0}, "log_every_n_steps"),
    ("a log interval of -1", {"trainer.log_every_n_steps": -1}, "log_every_n_steps"),
    ("validation every 0", {"trainer.val_check_interval": 0}, "val_check_interval"),
    ("validation every -1", {"trainer.val_check_interval": -1}, "val_check_interval"),
    ("validation every 1.5", {"trainer.val_check_interval": 1.5}, "val_check_interval"),
    ("validation every nan", {"trainer.val_check_interval": NAN}, "val_check_interval"),
    ("validation every 0 epochs", {"trainer.check_val_every_n_epoch": 0}, "check_val_every_n_epoch"),
    ("no batches to train on", {"trainer.limit_train_batches": 0}, "limit_train_batches"),
    ("a share of batches of 2.5", {"trainer.limit_train_batches": 2.5}, "limit_train_batches"),
    ("-1 batches", {"trainer.limit_train_batches": -1}, "limit_train_batches"),
    ("nan of the batches", {"trainer.limit_val_batches": NAN}, "limit_val_batches"),
    ("overfitted on -1 batches", {"trainer.overfit_batches": -1}, "overfit_batches"),
    ("-1 batches of a dry run", {"trainer.fast_dev_run": -1}, "fast_dev_run"),
    ("-2 batches of sanity", {"trainer.num_sanity_val_steps": -2}, "num_sanity_val_steps"),
    ("no validation of what is tested", {"trainer.limit_val_batches": 0}, "limit_val_batches"),
    ("a time that is none", {"trainer.max_time": "soon"}, "max_time"),
    ("a span of time there is none of", {"trainer.max_time": {"fortnights": 1}}, "max_time"),
    ("a time below 0", {"trainer.max_time": {"seconds": -5}}, "max_time"),
    ("no time", {"trainer.max_time": "00:00:00:00"}, "max_time"),
    ("a TPU", {"trainer.accelerator": "tpu"}, "accelerator"),
    ("a profiler of TPUs", {"trainer.profiler": "xla"}, "profiler"),
    ("one device twice", {"trainer.devices": [0, 0]}, "devices"),
    ("a trainer that is a number", {"trainer": 3}, "trainer"),
    ("saves every number", {"checkpoint_every": 3}, "checkpoint_every"),
    ("saves never, in a way that is none", {"checkpoint_every": None}, "checkpoint_every"),
    ("an optimiser for sparse gradients", optimizer("torch.optim.SparseAdam"), "optimizer"),
    ("an optimiser that is differentiated", optimizer(differentiable=True), "optimizer"),
    (
        "an optimiser that is none",
        {"optimizer": {"class_path": "torch.optim.Optimizer", "init_args": {"defaults": {}}}},
        "optimizer",
    ),
    ("a callback that changes the learning rate", callback("LearningRateFinder"), "sweep"),
    ("a callback that prunes", callback("ModelPruning", pruning_fn="l1_unstructured"), "prune"),
    ("a checkpoint's name with a form that is none", callback("ModelCheckpoint", filename="{epoch:zz}"), "filename"),
    ("a checkpoint's name with a brace that stays open", callback("ModelCheckpoint", filename="{"), "filename"),
    ("a checkpoint's name out of the run", callback("ModelCheckpoint", filename="../../../x"), "filename"),
    ("the name of a run that was set aside", {"name": "x.old-12345678"}, "name"),
    ("a LoRA whose scale is nan", {"model.peft": {"target_modules": ["q_proj"], "lora_alpha": NAN}}, "lora_alpha"),
    (
        "a LoRA for Megatron",
        {"model.peft": {"target_modules": ["q_proj"], "megatron_config": {"a": 1}}},
        "megatron_config",
    ),
    ("a timer without time", callback("Timer", duration="00:00:00:00"), "duration"),
    ("a summary of a depth below -1", callback("ModelSummary", max_depth=-7), "max_depth"),
    ("an unknown accelerator", {"trainer.accelerator": "gpuu"}, "gpu"),
    ("an unknown strategy", {"trainer.strategy": "dpp"}, "ddp"),
    ("a strategy that shards", {"trainer.strategy": "fsdp"}, "ddp"),
    ("an unknown precision", {"trainer.precision": "16-mix"}, "precision"),
    ("heads below float32", {"trainer.precision": "bf16-true"}, "precision"),
    ("0 devices", {"trainer.devices": 0}, "devices"),
    ("-3 devices", {"trainer.devices": -3}, "devices"),
    ("devices that are no number", {"trainer.devices": "two"}, "devices"),
    ("0 nodes", {"trainer.num_nodes": 0}, "num_nodes"),
    ("an unknown word for deterministic", {"trainer.deterministic": "yes please"}, "deterministic"),
    ("an unknown profiler", {"trainer.profiler": "simpel"}, "simple"),
    ("a barebones trainer", {"trainer.barebones": True}, "barebones"),
    ("own samplers replaced", {"trainer.use_distributed_sampler": "perhaps"}, "use_distributed_sampler"),
    (
        "a dataloader reloaded every -1",
        {"trainer.reload_dataloaders_every_n_epochs": -1},
        "reload_dataloaders_every_n_epochs",
    ),
    (
        "a metric nobody logs, to keep the best",
        callback("ModelCheckpoint", monitor="validation/acuracy"),
        "validation/accuracy",
    ),
    ("a metric nobody logs, to stop early", callback("EarlyStopping", monitor="val_loss"), "validation/loss"),
    ("the test to keep the best by", callback("ModelCheckpoint", monitor="test/accuracy"), "test"),
    (
        "an unknown mode to keep the best",
        callback("ModelCheckpoint", monitor="validation/accuracy", mode="maximum"),
        "mode",
    ),
    ("an unknown mode to stop early", callback("EarlyStopping", monitor="validation/loss", mode="least"), "mode"),
    ("a patience of -1", callback("EarlyStopping", monitor="validation/loss", patience=-1), "patience"),
    ("save_top_k -5", callback("ModelCheckpoint", monitor="validation/loss", save_top_k=-5), "save_top_k"),
    ("save_top_k 3 without monitor", callback("ModelCheckpoint", save_top_k=3), "save_top_k"),
    ("averaging of weights", callback("StochasticWeightAveraging", swa_lrs=0.1), "StochasticWeightAveraging"),
    ("checkpoints and none", {"trainer.enable_checkpointing": False}, "enable_checkpointing"),
    # the optimiser
    ("a learning rate of 0", optimizer(lr=0.0), "optimizer.init_args.lr"),
    ("a learning rate of -1", optimizer(lr=-1.0), "lr"),
    ("a learning rate of nan", optimizer(lr=NAN), "lr"),
    ("a learning rate of inf", optimizer(lr=INF), "lr"),
    ("a learning rate in words", optimizer(lr="small"), "lr"),
    ("weight decay -1", optimizer(weight_decay=-1.0), "weight_decay"),
    ("weight decay nan", optimizer(weight_decay=NAN), "weight_decay"),
    ("betas above 1", optimizer(betas=[0.9, 1.5]), "betas"),
    ("betas of one", optimizer(betas=[0.9]), "betas"),
    ("eps of the optimiser -1", optimizer(eps=-1.0), "eps"),
    ("momentum of SGD -1", optimizer("torch.optim.SGD", momentum=-1.0), "momentum"),
    ("nesterov without momentum", optimizer("torch.optim.SGD", nesterov=True), "nesterov"),
    ("an option the optimiser has not", optimizer(momentun=0.9), "momentun"),
    ("step size 0 of a scheduler", scheduler("StepLR", step_size=0), "step_size"),
    ("gamma nan of a scheduler", scheduler("StepLR", step_size=1, gamma=NAN), "gamma"),
    ("T_max 0", scheduler("CosineAnnealingLR", T_max=0), "T_max"),
    ("a warm-up of -5 steps", scheduler("LinearLR", total_iters=-5), "total_iters"),
    ("a warm-up from 0", scheduler("LinearLR", start_factor=0.0), "start_factor"),
    (
        "a scheduler of a metric nobody logs",
        {
            "lr_scheduler": {
                "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
                "init_args": {"monitor": "val_loss"},
            }
        },
        "validation/loss",
    ),
    # the run
    ("a seed below 0", {"seed_everything": -1}, "seed_everything"),
    ("a seed above 32 bits", {"seed_everything": 2**40}, "seed_everything"),
    ("a seed that is a fraction", {"seed_everything": 0.5}, "seed_everything"),
    ("null for the folder of runs", {"runs_root": None}, "runs_root"),
    ("an empty folder of runs", {"runs_root": ""}, "runs_root"),
    ("a folder of runs that is a file", {"runs_root": __file__}, "runs_root"),
    ("a name that leads elsewhere", {"name": "../../elsewhere"}, "name"),
    ("an absolute name", {"name": "/tmp/elsewhere"}, "name"),
    ("a name with a line break", {"name": "a\nb"}, "name"),
    ("a name with NUL", {"name": "a\0b"}, "name"),
    ("a name of 300 characters", {"name": "a" * 300}, "name"),
    ("an empty name", {"name": ""}, "name"),
    ("a name that is a folder", {"name": ".."}, "name"),
    # W&B
    ("an unknown mode of W&B", logger("lightning.pytorch.loggers.WandbLogger", mode="onlin"), "online"),
    ("an unknown word for resume", logger(WANDB, resume="alow"), "allow"),
    ("an unknown option of the logger", logger(WANDB, projet="x"), "project"),
    ("an empty project", logger(WANDB, project=""), "project"),
    ("a project with a slash", logger(WANDB, project="a/b"), "project"),
    ("a tag above 64 characters", logger(WANDB, tags=["t" * 65]), "tags"),
    ("tags that are no list", logger(WANDB, tags=3), "tags"),
    # LoRA
    ("an unknown argument of LoRA", {"model.peft": {"rank": 4}}, "rank"),
    ("rank 0 of LoRA", {"model.peft": {"r": 0, "target_modules": ["q_proj"]}}, "model.peft"),
    ("a rank of LoRA in words", {"model.peft": {"r": "four", "target_modules": ["q_proj"]}}, "model.peft"),
    ("LoRA on modules that are not there", {"model.peft": {"r": 4, "target_modules": ["no_proj"]}}, "no_proj"),
    ("a dropout of LoRA of 2", {"model.peft": {"r": 4, "target_modules": ["q_proj"], "lora_dropout": 2.0}}, "dropout"),
    (
        "LoRA on a share of the experts of 2",
        {"model.peft": {"r": 4, "experts": {"by": "usage", "share": 2.0}}},
        "share",
    ),
    ("LoRA on nothing", {"model.peft": {}}, "model.peft"),
]
TEXTS = [
    # name, the file, what the message has to contain
    ("an empty file", "", "mapping"),
    ("comments alone", "# nothing\n", "mapping"),
    ("a list", "- 1\n- 2\n", "mapping"),
    ("a text", "just words\n", "mapping"),
    ("a number", "7\n", "mapping"),
    ("a key twice", "data:\n  batch_size: 8\n  batch_size: 16\n", "batch_size"),
    ("a section twice", "model: {scope: all}\nmodel: {scope: answer}\n", "model"),
    ("a key twice in one line", "data: {few_shot: 0, few_shot: 5}\n", "few_shot"),
    ("a Python object", "seed_everything: !!python/object/apply:os.getpid []\n", "python/object"),
    ("a Python name", "name: !!python/name:os.system\n", "python/name"),
    ("a tag of its own", "data: !include other.yaml\n", "include"),
    ("tabs", "data:\n\tbatch_size: 8\n", "YAML"),
    ("an open bracket", "data: {batch_size: 8\n", "YAML"),
    ("an anchor that is not there", "data: *nothing\n", "nothing"),
    ("two documents", "seed_everything: 1\n---\nseed_everything: 2\n", "document"),
    ("a key that is a list", "? [a, b]\n: 1\n", "YAML"),
    ("a key that is a number", "7: 8\n", "7"),
    ("a key that is null", "null: 8\n", "key"),
    ("an anchor that contains itself", "data: &a {source: *a}\n", "levels"),
    ("bytes that are no text", b"\xff\xfe\x00name: x\n", "YAML"),
    ("a NUL", b"name: a\x00b\n", "YAML"),
    ("a merge of what is no mapping", "data:\n  <<: 7\n", "YAML"),
    ("nested a thousand times", "data: " + "[" * 1000 + "]" * 1000 + "\n", "levels"),
    # sweeps
    ("a sweep's method unknown", f"method: gird\n{COMMAND}parameters: {{model.task_weight: {{values: [1.0]}}}}\n", "grid"),
    ("a sweep without method", f"{COMMAND}parameters: {{model.task_weight: {{values: [1.0]}}}}\n", "method"),
    ("a sweep over nothing", f"{SWEEP}parameters: {{}}\n", "parameters"),
    ("a sweep over an unknown key", f"{SWEEP}parameters: {{model.task_wieght: {{values: [1.0]}}}}\n", "task_weight"),
    ("a sweep to a value out of range", f"{SWEEP}parameters: {{model.task_weight: {{values: [1.0, -1.0]}}}}\n", "task_weight"),
    ("a sweep's values empty", f"{SWEEP}parameters: {{model.task_weight: {{values: []}}}}\n", "values"),
    ("a sweep's min above max", f"method: random\n{COMMAND}parameters: {{model.task_weight: {{min: 2.0, max: 1.0}}}}\n", "task_weight"),
    ("a sweep judged by the test", f"method: bayes\n{COMMAND}metric: {{name: test/accuracy, goal: maximize}}\nparameters: {{model.task_weight: {{min: 1.0, max: 2.0}}}}\n", "validation"),
    ("a sweep judged by what nobody logs", f"method: bayes\n{COMMAND}metric: {{name: val_acc, goal: maximize}}\nparameters: {{model.task_weight: {{min: 1.0, max: 2.0}}}}\n", "validation/accuracy"),
    ("a sweep's goal unknown", f"method: bayes\n{COMMAND}metric: {{name: validation/accuracy, goal: maximise}}\nparameters: {{model.task_weight: {{min: 1.0, max: 2.0}}}}\n", "goal"),
    ("a sweep's cap 0", f"{SWEEP}run_cap: 0\nparameters: {{model.task_weight: {{values: [1.0]}}}}\n", "run_cap"),
    ("a sweep of text for a number", f"{SWEEP}parameters: {{optimizer.lr: {{values: [1e-3]}}}}\n", "1.0e-3"),
    # experiments
    ("an experiment without arms", f"{EXPERIMENT}seeds: [0]\n", "arms"),
    ("an experiment of one arm", f"{EXPERIMENT}seeds: [0]\narms: {{a: []}}\n", "arm"),
    ("an experiment with an arm twice", f"{EXPERIMENT}seeds: [0]\narms:\n  a: []\n  a: []\n", "'a'"),
    ("an experiment's key misspelt", f"{EXPERIMENT}{ARMS}seed: [0]\n", "seeds"),
    ("an experiment's seeds repeated", f"{EXPERIMENT}{ARMS}seeds: [0, 0]\n", "seeds"),
    ("an experiment without seeds", f"{EXPERIMENT}{ARMS}seeds: []\n", "seeds"),
    ("an experiment's seed below 0", f"{EXPERIMENT}{ARMS}seeds: [-1]\n", "seeds"),
    ("an experiment's baseline that is no arm", f"{EXPERIMENT}{ARMS}seeds: [0]\nbaseline: c\n", "baseline"),
    ("an experiment's configuration that is not there", f"{EXPERIMENT}seeds: [0]\narms: {{a: [], b: [configs/head/no_such.yaml]}}\n", "no_such"),
    ("an experiment's arm that is a path", f"{EXPERIMENT}seeds: [0]\narms: {{a: [], ../b: []}}\n", "../b"),
    ("an experiment's arm with a wrong value", f"{EXPERIMENT}seeds: [0]\narms: {{a: [], b: [model.task_weight=-1]}}\n", "task_weight"),
]  # fmt: skip
WORDS = [
    # name, the command, what the message has to contain, the code
    ("a verb misspelt", ["fti", "--config", "nano"], "fit", 2),
    ("a configuration that is not there", ["fit", "--config", "naon"], "nano", 2),
    ("a flag misspelt", ["fit", "--config", "nano", "--data.batchsize", "8"], "batch_size", 2),
    ("a flag without its value", ["fit", "--config", "nano", "--data.batch_size"], "data.batch_size", 2),
    ("a word too many", ["fit", "--config", "nano", "extra"], "extra", 2),
    ("a checkpoint that is none", ["test", "--config", "nano", "--ckpt_path", "no/such.ckpt"], "no/such.ckpt", 4),
    ("Lightning's word for a checkpoint", ["test", "--config", "nano", "--ckpt_path", "best"], "best", 2),
    ("a run that is not there", ["analyze", "no-such-run"], "no-such-run", 3),
    ("two runs that are not there", ["compare", "no-such-run", "nor-this"], "no-such-run", 3),
    ("a plug-in that is not there", ["--plugins", "no.py", "fit", "--config", "nano"], "no.py", 2),
    ("a plug-in that is no Python", ["--plugins", __file__ + "x", "fit", "--config", "nano"], "--plugins", 2),
    ("a sweep that is a configuration", ["sweep", "nano"], "sweep", 2),
    ("an experiment that is not there", ["experiment", "no/such"], "no/such", 2),
    ("nothing to list", ["list", "haeds"], "heads", 2),
    ("a grid of nothing", ["grid", "--config", "nano"], "--vary", 2),
    ("a grid over an unknown key", ["grid", "--config", "nano", "--vary", "model.haed.tau=1,2"], "model.haed", 2),
    ("a grid to a value out of range", ["grid", "--config", "nano", "--config", "head/temperature", "--vary", "model.head.tau=0.5,-1"], "tau", 2),
    ("a choice of experts unknown", ["prune", "--config", "nano", "--criterion", "Frequencie"], "Frequency", 2),
    ("a share of experts of 2", ["prune", "--config", "nano", "--criterion", "Frequency", "--share", "2"], "share", 2),
    ("tokens to generate 0", ["generate", "--config", "nano", "--max_new_tokens", "0", "text"], "max_new_tokens", 2),
    ("a run's name that leads elsewhere", ["fit", "--config", "nano", "--name", "../../x"], "name", 2),
    ("questions that are not there", ["fit", "--config", "nano", "--data.source", "LocalFiles", "--data.source.path", "no/questions.jsonl"], "no/questions.jsonl", 2),
    ("an inline configuration that is a list", ["fit", "--config", "nano", "--config", "{[1]}"], "--config", 2),
    ("an inline configuration with a key twice", ["fit", "--config", "nano", "--config", "{data: {few_shot: 0, few_shot: 1}}"], "few_shot", 2),
]  # fmt: skip


@functools.cache
def base():
    """Return the tiny fit that each key is changed in."""
    whole = {}
    for name in ("nano", "debug/tiny", "logger/none"):
        content = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
        for section, value in content.items():
            whole[section] = {**whole.get(section, {}), **value} if isinstance(value, dict) else value
    return whole


def changed(changes):
    """Return the tiny fit with dotted keys changed, as a file's text."""
    whole = copy.deepcopy(base())
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = whole
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return yaml.safe_dump(whole)


def rows():
    """Return name, file or command, words and code of every case."""
    keys = [(name, changed(change), words, *code) for name, change, words, *code in KEYS]
    return [*keys, *TEXTS, *WORDS]


def _ended(argv):
    """Run a command in this process, and return its code, its complaints and how long it took."""
    from moe_tune.cli.main import main

    out, err, begun = io.StringIO(), io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return code, err.getvalue(), time.monotonic() - begun


def _got(name, given, words, code=2):
    """Return ``refused`` if it is refused as it should be, by ``check`` and by ``fit``, else what came."""
    if isinstance(given, list):
        argvs = [given]
    else:
        Path("mine.yaml").write_bytes(given if isinstance(given, bytes) else given.encode())
        fits = isinstance(given, str) and not given.startswith(("name: mine", "method", "command"))
        argvs = [["check", "mine.yaml"], *([["fit", "--config", "mine.yaml"]] if fits else [])]
    for argv in argvs:
        came, complaint, seconds = _ended(argv)
        lines = [one for one in complaint.splitlines() if one.startswith("moe_tune: ")]
        said = [one for one in lines if "expected" in one and words in one and "Hint: " in one]
        quick = argv[0] != "check" or seconds < PATIENCE
        if came != code or len(lines) != 1 or not said or "unexpected" in complaint or not quick:
            return f"{argv[0]}: {came} in {seconds:.1f} s: {complaint.strip()[:300]}"
    written = [str(one) for one in Path("runs").rglob("*.parquet")]
    return f"{written} was written" if written else "refused"


def _try_all(part):
    """Try every case of a part in this process, one after the other, and leave what came of each in a file."""
    (Path.cwd() / "configs").symlink_to(ROOT / "configs")
    came = {}
    for row in rows()[part::PARTS]:
        try:
            came[row[0]] = _got(*row)
        except BaseException as fault:  # whatever gets out of the program is what came
            came[row[0]] = f"{type(fault).__name__}: {fault}"
    Path("came.json").write_text(json.dumps(came), encoding="utf-8")
    os._exit(0)


PARTS = 2
_CAME = [({}, Lock()) for _ in range(PARTS)]


def _attempt(name, part):
    def attempt(trial):
        came, lock = _CAME[part]
        with lock:
            if not came:  # one process for a part: each takes a fraction of a second
                trial.start(["check"], before=functools.partial(_try_all, part)).ended(600)
                came.update(json.loads((trial.folder / "came.json").read_text(encoding="utf-8")))
        return came[name]

    return attempt


CASES = [
    Case("config", row[0], "refused", _attempt(row[0], number % PARTS))
    for number, row in enumerate([*KEYS, *TEXTS, *WORDS])
]
