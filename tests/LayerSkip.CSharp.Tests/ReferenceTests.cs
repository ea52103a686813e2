using System.Text.Json;
using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

/// <summary>Over the reference data beside the checkout, which a fresh clone lacks.</summary>
internal static class ReferenceTests
{
    private static readonly string Stories = Path.Combine(Root(), "..", "shared", "data", "stories260K");

    public static Test All { get; } = Runner.TestList("stories260K", [
        Shared("writes the 257 greedy tokens, with and without speculation", () =>
        {
            using var greedy = JsonDocument.Parse(File.ReadAllText(Path.Combine(Stories, "greedy.json")));
            int[] expected = [.. greedy.RootElement.GetProperty("ids").EnumerateArray().Select(id => id.GetInt32())];
            using var model = LayerSkipModel.Load(Stories);
            foreach (var strategy in (Strategy[])[Strategy.Autoregressive, Strategy.SelfSpeculative])
            {
                // The first of them is the beginning of text, the prompt.
                var options = new GenerateOptions { Strategy = strategy, MaxNewTokens = 256, IgnoreEos = true };
                var result = model.Generate([expected[0]], options);
                Same(result.PromptIds.Concat(result.TokenIds), expected, $"{strategy}");
            }
        }),
        Shared("streams a story", async () =>
        {
            using var model = LayerSkipModel.Load(Stories);
            var options = new GenerateOptions { MaxNewTokens = 60, ExitLayer = 4 };
            var steps = await model.StreamAsync("Once upon a time", options).ToList();
            Equal(
                "Once upon a time" + string.Concat(steps.Select(step => step.Text)),
                "Once upon a time" + model.Generate("Once upon a time", options).Text,
                "text");
            True(steps[^1].Result!.Statistics.AcceptedDraftTokenCount > 0, "some drafts are kept");
        }),
    ]);

    private static Test Shared(string name, Action body) => Shared(name, () =>
    {
        body();
        return Task.CompletedTask;
    });

    private static Test Shared(string name, Func<Task> body) => Case(name, () =>
        Directory.Exists(Stories) ? body() : throw new IgnoreException("no ../shared/data/stories260K"));

    private static string Root()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "LayerSkip.FSharp.sln")))
        {
            folder = Path.GetDirectoryName(folder) ?? throw new DirectoryNotFoundException("no checkout");
        }

        return folder;
    }
}
