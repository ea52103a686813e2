// dotnet run samples/hello.cs -- [MODEL] [PROMPT]     one command on a fresh clone, from any folder; without MODEL, the default one
#:project ../src/LayerSkip.CSharp/LayerSkip.CSharp.csproj
#:property PublishAot=false
#:property GenerateDocumentationFile=false

using LayerSkip.CSharp;

var here = (string)AppContext.GetData("EntryPointFileDirectoryPath")!;
var path = args.ElementAtOrDefault(0) ?? Path.GetFullPath(Path.Combine(here, "..", "models", "stories-10m"));
try
{
    using var model = LayerSkipModel.Load(path);
    var options = new GenerateOptions { Strategy = Strategy.SelfSpeculative, MaxNewTokens = 200 };

    await foreach (var step in model.StreamAsync(args.ElementAtOrDefault(1) ?? "Once upon a time", options))
    {
        Console.Write(step.Text);
        if (step.Result is { Statistics: var speculation, Timings: var timings, TokenIds.Count: var tokens })
        {
            Console.WriteLine($"\n\n{tokens} tokens, {timings.TokensPerSecond:F0} a second; layers 1 to "
                + $"{model.Info.RecommendedExitLayer} of {model.Info.LayerCount} drafted {speculation.DraftTokenCount}, "
                + $"the others kept {speculation.DraftAcceptanceRate:P0}: {speculation.MeanAcceptanceLength:F2} tokens a round");
        }
    }

    return 0;
}
catch (LayerSkipException e)
{
    Console.Error.WriteLine(e.Message);
    return 2;
}
