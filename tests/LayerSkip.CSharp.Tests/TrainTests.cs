using System.Text.Json;
using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

internal static class TrainTests
{
    private static readonly string[] Texts =
        [.. Enumerable.Range(0, 12).Select(number => $"{number}: the cat sat on the mat and looked at {number * number} birds.")];

    public static Test All(Tiny tiny)
    {
        TrainOptions small = new()
        {
            Model = tiny.Path,
            Data = TrainData.FromTexts(Texts) with { ValidationShare = 0.2 },
            Steps = 6,
            BatchSize = 2,
            SequenceLength = 16,
            ValidateEvery = 3,
            ValidationTokenCount = 64,
            SaveEvery = 2,
            ProbeEvery = 6,
            ProbeExitLayers = [1, 2],
            Threads = 1,
            Device = Device.Cpu,
        };

        return Runner.TestList("train", [
            Case("a run tells its steps, and leaves a model that recommends its exit", () => InFolder(at =>
            {
                List<TrainProgress> told = [];
                var options = small with
                {
                    ExitLayer = 1,
                    DraftLength = 2,
                    Recipe = TrainRecipe.Plain,
                    Dropout = DropoutSchedule.Exponential(0.5).Over(TimeSchedule.Exponential),
                    Curriculum = ExitLossCurriculum.Always.Scaled(0.5),
                };
                var result = LayerSkipTrainer.Train(at("run"), options, new Told<TrainProgress>(told.Add));
                Equal((result.Folder, result.StepCount), (at("run"), 6), "what it was");
                var steps = told.OfType<TrainStep>().ToList();
                Same(steps.Select(step => step.Step), [1, 2, 3, 4, 5, 6], "steps");
                True(steps.All(step => step is { StepCount: 6, Loss: > 0, LearningRate: > 0, GradientNorm: > 0, TokenCount: 32, IsSpike: false }), "each");
                True(steps.All(step => step.Elapsed > TimeSpan.Zero && step.Shares.Count == 4 && step.KeptShares.Count == 4), "with all of it");
                True(steps.All(step => step.CrossEntropy.ContainsKey(4)), "the last layer learns");
                Same(told.OfType<TrainValidation>().Select(at => at.Step), [0, 3, 6], "validations, the first of the model as it was");
                Same(told.OfType<TrainProbe>().Single().AcceptanceRates.Keys, [1, 2], "probes");
                Same(told.OfType<TrainCheckpoint>().Select(saved => (saved.Step, Path.GetFileName(saved.Folder))),
                    [(2, "checkpoint-2"), (4, "checkpoint-4"), (6, "checkpoint-6")], "checkpoints");
                Equal(result.Loss, steps[^1].Loss, "its loss");
                Same(result.ValidationCrossEntropy!, told.OfType<TrainValidation>().Last().CrossEntropy, "its validation");
                True(result.Remarks.Count == 0, "nothing to remark");
                using var model = LayerSkipModel.Load(at("run"));
                Equal((model.Info.RecommendedExitLayer, model.Info.RecommendedDraftLength, model.Info.RecommendsExit), (1, 2, true), "recommends");
            })),
            Case("a run that was cancelled goes on to the same bits", () => InFolder(async at =>
            {
                var whole = await LayerSkipTrainer.TrainAsync(at("whole"), small);
                using CancellationTokenSource source = new();
                var third = new Told<TrainProgress>(told =>
                {
                    if (told is TrainStep { Step: 3 })
                    {
                        source.Cancel();
                    }
                });
                await Cancelled(() => LayerSkipTrainer.TrainAsync(at("parts"), small, third, source.Token));
                List<TrainProgress> told = [];
                var rest = await LayerSkipTrainer.ResumeAsync(at("parts"), new() { Threads = 1, Device = Device.Cpu }, new Told<TrainProgress>(told.Add));
                Equal(told.OfType<TrainStep>().First().Step, 4, "from where it was");
                Same(Weights(rest), Weights(whole), "weights");
                var done = await LayerSkipTrainer.ResumeAsync(at("parts"), new() { Threads = 1, Device = Device.Cpu });
                Equal(done.Loss, rest.Loss, "a finished run's last loss");
                Same(done.ValidationCrossEntropy!, rest.ValidationCrossEntropy!, "and its last validation");
                var more = LayerSkipTrainer.Resume(at("parts"), new() { Steps = 8, LearningRate = 1e-5, SaveEvery = 1, ValidateEvery = 0 });
                Equal((more.StepCount, more.ValidationCrossEntropy), (8, null), "and further");
                await Cancelled(() => LayerSkipTrainer.ResumeAsync(at("parts"), cancellationToken: new(canceled: true)));
            })),
            Case("functions train as what they compute, and are asked for again", () => InFolder(async at =>
            {
                var named = small with
                {
                    Recipe = TrainRecipe.Plain,
                    Dropout = DropoutSchedule.Linear(0.6).Over(TimeSchedule.Linear),
                    Curriculum = ExitLossCurriculum.Rotational(2).Scaled(0.5),
                };
                var own = named with
                {
                    Dropout = DropoutSchedule.From((layer, layers) => 0.6 * (layer - 1) / (layers - 1))
                        .Over(TimeSchedule.From((step, steps) => (step - 1.0) / (steps - 1))),
                    Curriculum = ExitLossCurriculum.From(step => [.. Enumerable.Range(1, 4).Where(layer => (layer - step) % 2 == 0)]).Scaled(0.5),
                };
                var byName = LayerSkipTrainer.Train(at("named"), named);
                using CancellationTokenSource source = new();
                var second = new Told<TrainProgress>(told =>
                {
                    if (told is TrainStep { Step: 2 })
                    {
                        source.Cancel();
                    }
                });
                await Cancelled(() => LayerSkipTrainer.TrainAsync(at("own"), own, second, source.Token));
                Equal(Throws<LayerSkipException>(() => LayerSkipTrainer.Resume(at("own"))).OptionName, "Dropout", "missing");
                Equal(
                    Throws<LayerSkipException>(() => LayerSkipTrainer.Resume(at("own"), new() { Dropout = own.Dropout })).OptionName,
                    "Curriculum",
                    "missing");
                var byFunction = LayerSkipTrainer.Resume(at("own"), new() { Dropout = own.Dropout, Curriculum = own.Curriculum });
                Same(Weights(byFunction), Weights(byName), "the same weights");
            })),
            Case("a model from scratch learns pairs", () => InFolder(at =>
            {
                NewModel sizes = new()
                {
                    TokenizerFolder = tiny.Path,
                    LayerCount = 3,
                    HiddenSize = 16,
                    HeadCount = 4,
                    KeyValueHeadCount = 2,
                    IntermediateSize = 24,
                    ContextLength = 64,
                    TiedHead = false,
                };
                var options = small with
                {
                    Model = null,
                    NewModel = sizes,
                    Seed = 5,
                    Steps = 3,
                    Recipe = TrainRecipe.Auto,
                    Data = new()
                    {
                        Pairs = [.. Texts.Select(text => new PromptAndResponse { Prompt = text[..3], Response = text[3..] })],
                        ValidationShare = 0.2,
                        AddsBos = false,
                        AddsEos = false,
                        ParsesSpecial = false,
                    },
                };
                LayerSkipTrainer.Train(at("run"), options);
                using var model = LayerSkipModel.Load(at("run"));
                Equal(
                    (model.Info.LayerCount, model.Info.HiddenSize, model.Info.HeadCount, model.Info.KeyValueHeadCount),
                    (3, 16, 4, 2),
                    "sizes");
                Equal((model.Info.ContextLength, model.Info.HasTokenizer), (64, true), "and tokenizer");
                void Refused(string option, NewModel bad) =>
                    Equal(
                        Throws<LayerSkipException>(() => LayerSkipTrainer.Train(at("bad"), options with { NewModel = bad })).OptionName,
                        option,
                        "refused");
                Refused("HiddenSize", sizes with { HiddenSize = 10 });
                Refused("KeyValueHeadCount", sizes with { KeyValueHeadCount = 3 });
                Refused("LayerCount", sizes with { LayerCount = 0 });
                Equal(
                    Throws<LayerSkipException>(() => LayerSkipTrainer.Train(at("bad"), options with
                    {
                        NewModel = sizes with { TokenizerFolder = at("nowhere") },
                    })).Code,
                    LayerSkipErrorCode.FileNotFound,
                    "no tokenizer");
            })),
            Case("files are read, and every setting is heeded", () => InFolder(at =>
            {
                File.WriteAllText(at("texts.txt"), string.Join("<|endoftext|>", Texts));
                File.WriteAllText(at("valid.txt"), Texts[0]);
                Same(TrainData.FromTexts("a", "b").Texts, ["a", "b"], "texts");
                Same(TrainData.FromFiles("c").Files, ["c"], "files");
                var options = small with
                {
                    Data = TrainData.FromFiles(at("texts.txt")) with { ValidationFiles = [at("valid.txt")] },
                    Recipe = TrainRecipe.SelfDistillation,
                    LabelWeight = 0.5,
                    LastLayerWeight = 0.5,
                    Steps = 2,
                    AccumulatedBatches = 2,
                    Layout = SampleLayout.Each,
                    LearningRate = 1e-4,
                    WarmupSteps = 1,
                    LearningRateFloor = 0.5,
                    WeightDecay = 0,
                    Beta1 = 0.8,
                    Beta2 = 0.9,
                    Epsilon = 1e-7,
                    GradientClipNorm = 0.5,
                    OnSpike = SpikeHandling.Skip,
                    Recompute = true,
                    Precision = Dtype.F64,
                    CheckpointsKept = 1,
                    SaveEvery = 1,
                };
                LayerSkipTrainer.Train(at("run"), options);
                var log = File.ReadLines(Path.Combine(at("run"), "log.jsonl")).First();
                foreach (var setting in (string[])[
                    "\"exit_labels\":0.5", "\"exit_last_layer\":0.5", "\"accumulate\":2", "\"layout\":\"each\"", "\"learning_rate\":0.0001",
                    "\"warmup\":1", "\"rate_floor\":0.5", "\"weight_decay\":0", "\"beta1\":0.8", "\"beta2\":0.9", "\"epsilon\":1E-07",
                    "\"clip_norm\":0.5", "\"on_spike\":\"skip\"", "\"recompute\":true", "\"precision\":\"f64\"", "\"keep\":1"])
                {
                    True(log.Contains(setting, StringComparison.OrdinalIgnoreCase), $"{setting} is in {log}");
                }

                Same(Directory.GetDirectories(at("run"), "checkpoint-*").Select(Path.GetFileName), ["checkpoint-2"], "one is kept");
            })),
            Case("of conversations the assistant's answers are learned, by the model's own template", () => InFolder(at =>
            {
                string Line(string question, string answer) => JsonSerializer.Serialize(
                    new { messages = new[] { new { role = "user", content = question }, new { role = "assistant", content = answer } } });

                File.WriteAllLines(at("chats.jsonl"), [Line("q", "yes"), Line("q", new('a', 40))]);
                var options = small with
                {
                    Model = tiny.Chat,
                    Data = TrainData.FromFiles(at("chats.jsonl")) with { ValidationShare = 0 },
                    Steps = 2,
                    SequenceLength = 32,
                };
                List<TrainProgress> told = [];
                var result = LayerSkipTrainer.Train(at("run"), options, new Told<TrainProgress>(told.Add));
                // An answer is its bytes and what ends it; before it are six tokens of prompt.
                Equal(
                    result.Conversations,
                    new() { Count = 2, SampleCount = 2, CutCount = 1, AnswerTokenCount = 4 + 41, LearnedTokenCount = 4 + 26 },
                    "counted");
                True(told.OfType<TrainStep>().All(step => step is { TokenCount: 10 + 32 }), "each alone");
                Equal(LayerSkipTrainer.Resume(at("run"), new() { Steps = 3 }).Conversations, result.Conversations, "and when it goes on");

                void Refused(LayerSkipErrorCode code, string? option, TrainOptions bad)
                {
                    var thrown = Throws<LayerSkipException>(() => LayerSkipTrainer.Train(at("other"), bad));
                    Equal((thrown.Code, thrown.OptionName), (code, option), thrown.Message);
                }

                Refused(LayerSkipErrorCode.OptionOutOfRange, "Layout", options with { Layout = SampleLayout.Packed });
                Refused(LayerSkipErrorCode.BadFile, null, options with { Model = tiny.Path });
                Equal(LayerSkipTrainer.Train(at("texts"), small with { Steps = 1, ValidateEvery = 0 }).Conversations, null, "of texts");
            })),
            Case("what cannot be trained is refused in the options' names, before anything is written", () => InFolder(at =>
            {
                void Refused(LayerSkipErrorCode code, string? option, TrainOptions bad)
                {
                    var thrown = Throws<LayerSkipException>(() => LayerSkipTrainer.Train(at("run"), bad));
                    Equal((thrown.Code, thrown.OptionName), (code, option), thrown.Message);
                }

                var range = LayerSkipErrorCode.OptionOutOfRange;
                Refused(range, "Steps", small with { Steps = 0 });
                Refused(range, "AccumulatedBatches", small with { AccumulatedBatches = 0 });
                Refused(range, "GradientClipNorm", small with { GradientClipNorm = -1 });
                Refused(range, "LearningRateFloor", small with { LearningRateFloor = 2 });
                Refused(range, "WarmupSteps", small with { WarmupSteps = -1 });
                Refused(range, "CheckpointsKept", small with { CheckpointsKept = 0 });
                Refused(range, "ProbeExitLayers", small with { ProbeExitLayers = [4] });
                Refused(range, "ValidationTokenCount", small with { ValidationTokenCount = 0 });
                Refused(range, "Dropout", small with { Dropout = DropoutSchedule.Constant(2) });
                Refused(range, "Curriculum", small with { Curriculum = ExitLossCurriculum.Always.Scaled(2) });
                Refused(range, "Curriculum", small with { Curriculum = ExitLossCurriculum.Always.WeighedBy((_, _) => -1) });
                Refused(range, "LabelWeight", small with { LabelWeight = -1 });
                Refused(range, "ExitLayer", small with { ExitLayer = 4 });
                Refused(range, "ValidationShare", small with { Data = small.Data with { ValidationShare = 1 } });
                Refused(range, "Data", small with { Data = new() });
                Refused(range, "Model", small with { Model = null });
                Refused(range, "DraftLength", small with { Model = tiny.Quantised, DraftLength = 3 });
                Refused(range, "ProbeEvery", small with { ProbeExitLayers = [], ProbeEvery = 2 });
                Refused(LayerSkipErrorCode.FileNotFound, null, small with { Data = TrainData.FromFiles(at("nowhere.txt")) });
                Throws<OperationCanceledException>(() => LayerSkipTrainer.Train(at("run"), small, cancellationToken: new(canceled: true)));
                True(!Directory.Exists(at("run")) || !Directory.EnumerateFiles(at("run"), "*.safetensors").Any(), "nothing written");
                Throws<ArgumentNullException>(() => LayerSkipTrainer.Train(null!, small));
                Throws<ArgumentNullException>(() => LayerSkipTrainer.Resume(null!));
                Equal(Throws<LayerSkipException>(() => LayerSkipTrainer.Resume(at("nowhere"))).Code, LayerSkipErrorCode.FileNotFound, "no run");
            })),
        ]);
    }

    private static byte[] Weights(TrainResult result) => File.ReadAllBytes(Path.Combine(result.Folder, "model.safetensors"));
}
