using Expecto;
using Expecto.CSharp;
using LayerSkip.CSharp;
using LayerSkip.CSharp.Tests;
using LayerSkip.Extensions.AI;
using Microsoft.Extensions.AI;
using static LayerSkip.CSharp.Tests.Support;

namespace ChatClientTests;

internal static class OptionTests
{
    private static readonly ChatMessage[] Hello = [new(ChatRole.User, "hello")];

    public static Test All { get; } = Runner.TestList("options", [
        Case("every member of ChatOptions is in the README's table", () =>
        {
            var folder = AppContext.BaseDirectory;
            while (!File.Exists(Path.Combine(folder, "LayerSkip.FSharp.sln")))
            {
                folder = Path.GetDirectoryName(folder)!;
            }

            var rows = File.ReadAllLines(Path.Combine(folder, "src", "LayerSkip.Extensions.AI", "README.md"))
                .Where(line => line.StartsWith('|'));
            foreach (var member in typeof(ChatOptions).GetProperties())
            {
                True(rows.Any(row => row.Split('|')[1].Contains($"`{member.Name}`", StringComparison.Ordinal)), member.Name);
            }
        }),
        Case("sampling, penalties, limits and stops are what the model is given", async () =>
        {
            var given = await Given(new()
            {
                Temperature = 0.7f, TopP = 0.9f, TopK = 5, FrequencyPenalty = 0.1f, PresencePenalty = -0.3f,
                MaxOutputTokens = 17, Seed = 4, StopSequences = ["END", "stop"],
            });
            Equal(
                (given.Temperature, given.TopP, given.TopK, given.FrequencyPenalty, given.PresencePenalty, given.MaxNewTokens, given.Seed),
                (0.7, 0.9, 5, 0.1, -0.3, 17, 4),
                "numbers as they are written");
            Same(given.StopTexts, ["END", "stop"], "stops");
            Same(given.StopTokenIds!, [7], "the chat's own stop token");
        }),
        Case("what a request does not say is the client's, then the defaults", async () =>
        {
            LayerSkipChatClientOptions settings = new() { Generate = new() { Temperature = 0.4, StopTexts = ["x"] }, MaxOutputTokens = 33 };
            var given = await Given(null, settings);
            Equal((given.Temperature, given.MaxNewTokens, given.StopTexts[0]), (0.4, 33, "x"), "the client's");
            Equal((await Given(new() { Temperature = 0 }, settings)).Temperature, 0, "the request's goes before");
            Equal((await Given(null)).MaxNewTokens, 1024, "the default");
        }),
        Case("an unset seed is another each time", async () =>
        {
            var seeds = await Task.WhenAll(Enumerable.Range(0, 5).Select(async _ => (await Given(null)).Seed));
            Equal(seeds.Distinct().Count(), 5, "five seeds");
        }),
        Case("additional properties that are ours count, as values and as JSON; others do not", async () =>
        {
            foreach (var wrap in new Func<object, object>[] { value => value, value => System.Text.Json.JsonSerializer.SerializeToElement(value) })
            {
                var given = await Given(new()
                {
                    AdditionalProperties = new()
                    {
                        ["exit_layer"] = wrap(3), ["draft_length"] = wrap(5), ["strategy"] = wrap("self-speculative"), ["policy"] = wrap("static"),
                        ["drafter"] = wrap("lookup"),
                        ["min_p"] = wrap(0.05), ["repetition_penalty"] = wrap(1.1), ["ignore_eos"] = wrap(true), ["somebody_elses"] = wrap("?"),
                    },
                });
                Equal((given.ExitLayer, given.DraftLength), (3, 5), "layers and drafts");
                Equal(
                    (given.Strategy, given.Policy, given.Drafter), (Strategy.SelfSpeculative, DraftPolicy.Static, Drafter.Lookup), "names");
                Equal((given.MinP, given.RepetitionPenalty, given.IgnoreEos), (0.05, 1.1, true), "rules");
                True(given.StopTokenIds is null, "what ends an answer is ignored too");
            }
        }),
        Case("additional properties that cannot be are refused by name", () =>
        {
            foreach (var (name, value) in new (string, object)[]
            {
                ("exit_layer", "three"), ("exit_layer", 2.5), ("draft_length", long.MaxValue), ("strategy", "fastest"), ("strategy", "7"), ("policy", 1),
            })
            {
                var fault = Throws<ArgumentException>(() => Ask(new() { AdditionalProperties = new() { [name] = value } }));
                True(!fault.Message.Contains("format", StringComparison.Ordinal) && !fault.Message.Contains("cast", StringComparison.OrdinalIgnoreCase), fault.Message);
                True(fault.Message.Contains(name, StringComparison.Ordinal), fault.Message);
            }
        }),
        Case("raw options come before, and members go before them", async () =>
        {
            var given = await Given(new()
            {
                Temperature = 0.5f,
                RawRepresentationFactory = client =>
                {
                    True(client is LayerSkipChatClient, "who asks");
                    return new GenerateOptions { MaxNewTokens = 3, Temperature = 1, TopK = 9, Seed = 11 };
                },
            });
            Equal((given.MaxNewTokens, given.Temperature, given.TopK, given.Seed), (3, 0.5, 9, 11), "both");
        }),
        Case("what would mean something else is refused, with what to do", () =>
        {
            foreach (var (options, word) in new (ChatOptions, string)[]
            {
                (new() { ConversationId = "1" }, "ConversationId"),
                (new() { ModelId = "another" }, "another"),
                (new() { Tools = [new HostedWebSearchTool()] }, "HostedWebSearchTool"),
            })
            {
                True(Throws<NotSupportedException>(() => Ask(options)).Message.Contains(word, StringComparison.Ordinal), word);
            }

            Throws<ArgumentException>(() => Ask(new() { ToolMode = ChatToolMode.RequireAny }));
            Throws<ArgumentException>(() => Ask(new() { ToolMode = ChatToolMode.RequireSpecific("x"), Tools = [AIFunctionFactory.Create(() => 1, "y")] }));
        }),
        Case("its own model id is its model's name, or what it is given", async () =>
        {
            await Given(new() { ModelId = "scripted" });
            await Given(new() { ModelId = "mine" }, new() { ModelId = "mine" });
        }),
        Case("formats are JSON that the model cannot leave", async () =>
        {
            var schema = System.Text.Json.JsonDocument.Parse("""{"type": "integer"}""").RootElement;
            True((await Given(new() { ResponseFormat = ChatResponseFormat.Text })).ResponseFormat is null, "text");
            Equal((await Given(new() { ResponseFormat = ChatResponseFormat.Json })).ResponseFormat, ResponseFormat.JsonObject, "any object");
            var format = (await Given(new() { ResponseFormat = ChatResponseFormat.ForJsonSchema(schema) })).ResponseFormat;
            Equal(format, ResponseFormat.JsonSchema("""{"type": "integer"}"""), "a schema");
        }),
        Case("effort is the template's enable_thinking, instructions a system message", async () =>
        {
            Scripted model = new(["a"]);
            await new LayerSkipChatClient(model).GetResponseAsync(
                Hello, new() { Instructions = "Be brief.", Reasoning = new() { Effort = ReasoningEffort.None } });
            var (turns, prompt) = model.Chats.Single();
            Equal(prompt.Variables["enable_thinking"].GetBoolean(), false, "no thoughts");
            Same(turns.Select(turn => (turn.Role, turn.Content)), [("system", "Be brief."), ("user", "hello")], "turns");
        }),
    ]);

    private static async Task<GenerateOptions> Given(ChatOptions? options, LayerSkipChatClientOptions? settings = null)
    {
        Scripted model = new(["a"]);
        await new LayerSkipChatClient(model, settings).GetResponseAsync(Hello, options);
        return model.Asked.Single();
    }

    // Refused before anything is pulled.
    private static void Ask(ChatOptions options) =>
        _ = new LayerSkipChatClient(new Scripted()).GetStreamingResponseAsync(Hello, options);
}
