// dotnet run samples/train.cs -- [FOLDER] [MODEL] [TEXT FILE]     trains a model to exit early, a few steps of it; Ctrl-C stops, the same command goes on
#:project ../src/LayerSkip.CSharp/LayerSkip.CSharp.csproj
#:property PublishAot=false
#:property GenerateDocumentationFile=false

using LayerSkip.CSharp;

var here = (string)AppContext.GetData("EntryPointFileDirectoryPath")!;
var folder = args.ElementAtOrDefault(0) ?? Path.Combine(Path.GetTempPath(), "layerskip-train");
var options = new TrainOptions
{
    Model = args.ElementAtOrDefault(1) ?? Path.GetFullPath(Path.Combine(here, "..", "models", "stories-10m")),
    Data = args.ElementAtOrDefault(2) is { } file
        ? TrainData.FromFiles(file)
        : TrainData.FromTexts(Enumerable.Range(1, 40).Select(n => $"Tom had {n} red balls. He gave one to Sam. Now Tom had {n - 1} red balls."))
            with { ValidationShare = 0.2 },
    Steps = 8,
    BatchSize = 2,
    SequenceLength = 64,
    Dropout = DropoutSchedule.Exponential(0.1).Over(TimeSchedule.Linear),
    Curriculum = ExitLossCurriculum.Rotational(4).Scaled(0.5),
    ValidateEvery = 4,
    SaveEvery = 4,
};

using var stop = new CancellationTokenSource();
Console.CancelKeyPress += (_, pressed) =>
{
    pressed.Cancel = true;
    stop.Cancel();
};
var progress = new Progress();
try
{
    var result = Directory.Exists(Path.Combine(folder, "tokenizer"))
        ? await LayerSkipTrainer.ResumeAsync(folder, progress: progress, cancellationToken: stop.Token)
        : await LayerSkipTrainer.TrainAsync(folder, options, progress, stop.Token);
    Console.WriteLine($"{result.Folder}: {result.StepCount} steps");
    return 0;
}
catch (OperationCanceledException)
{
    Console.WriteLine($"stopped; the same command goes on in {folder}");
    return 130;
}
catch (LayerSkipException e)
{
    Console.Error.WriteLine(e.Message);
    return 2;
}

internal sealed class Progress : IProgress<TrainProgress>
{
    public void Report(TrainProgress value) => Console.WriteLine(value switch
    {
        TrainStep step => $"step {step.Step} of {step.StepCount}: loss {step.Loss:F3}",
        TrainValidation { CrossEntropy: var exits } => $"validation: layer 1 {exits[0]:F3}, the last {exits[^1]:F3} nats",
        TrainProbe { AcceptanceRates: var rates } => string.Join(", ", rates.Select(rate => $"exit {rate.Key} drafts {rate.Value:P0} right")),
        TrainCheckpoint { Folder: var saved } => $"saved {saved}",
        _ => "",
    });
}
