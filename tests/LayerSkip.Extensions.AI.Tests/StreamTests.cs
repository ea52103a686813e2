using Expecto;
using Expecto.CSharp;
using LayerSkip.CSharp;
using LayerSkip.CSharp.Tests;
using LayerSkip.Extensions.AI;
using Microsoft.Extensions.AI;
using static LayerSkip.CSharp.Tests.Support;

namespace ChatClientTests;

internal static class StreamTests
{
    public static Test All { get; } = Runner.TestList("answers", [
        Case("stream piece by piece; the last update has usage, why it ended, and what speculation did", async () =>
        {
            List<ChatResponseUpdate> updates = [];
            await foreach (var update in new LayerSkipChatClient(new Scripted(["Hel", "", "lo"])).GetStreamingResponseAsync("hi"))
            {
                updates.Add(update);
            }

            Same(updates.Select(update => update.Text), ["Hel", "lo", ""], "texts");
            Equal(updates.Select(update => update.ResponseId).Distinct().Count(), 1, "one response");
            Equal(updates.SkipLast(1).Select(update => update.MessageId).Distinct().Count(), 1, "one message");
            True(updates.All(update => update.Role == ChatRole.Assistant && update.ModelId == "scripted"), "who");
            Same(updates.Select(update => update.FinishReason), [null, null, ChatFinishReason.Stop], "the end");
            Reported(updates[^1].Contents.OfType<UsageContent>().Single().Details, updates[^1].AdditionalProperties!);
            True(updates[^1].RawRepresentation is GenerateResult, "the whole result");
        }),
        Case("whole are the same", async () =>
        {
            var response = await new LayerSkipChatClient(new Scripted(["Hel", "lo"])).GetResponseAsync("hi");
            Equal(response.Text, "Hello", "text");
            Equal(response.Messages.Single().Role, ChatRole.Assistant, "role");
            Equal((response.FinishReason, response.ModelId), (ChatFinishReason.Stop, "scripted"), "end and model");
            True(response.ResponseId is { Length: > 0 } && response.CreatedAt is not null, "which and when");
            Reported(response.Usage!, response.AdditionalProperties!);
            True(response.RawRepresentation is GenerateResult { Text: "Hello" }, "the whole result");
        }),
        Case("that a limit ended say so", async () =>
        {
            var response = await new LayerSkipChatClient(new Scripted(["a"]) { Finish = FinishReason.Length }).GetResponseAsync("hi");
            Equal(response.FinishReason, ChatFinishReason.Length, "length");
        }),
        Case("that are cancelled end as cancelled", async () =>
        {
            using CancellationTokenSource cancel = new();
            await Cancelled(async () =>
            {
                LayerSkipChatClient client = new(new Scripted(["a", "b", "c"]));
                await foreach (var update in client.GetStreamingResponseAsync("hi", cancellationToken: cancel.Token))
                {
                    await cancel.CancelAsync();
                }
            });
        }),
        Case("come with services: the client, its metadata, its model", () =>
        {
            Scripted model = new();
            IChatClient client = new LayerSkipChatClient(model, new() { ModelId = "mine" });
            var metadata = client.GetService<ChatClientMetadata>()!;
            Equal((metadata.ProviderName, metadata.DefaultModelId), ("layerskip", "mine"), "metadata");
            Equal(client.GetService<ILayerSkipModel>(), model, "model");
            Equal(client.GetService<ModelInfo>(), model.Info, "what it is");
            Equal(client.GetService<LayerSkipChatClient>(), client, "client");
            True(client.GetService<string>() is null && client.GetService<IChatClient>("key") is null, "no others");
        }),
        Case("end with the model where the client owns it, and only then", async () =>
        {
            foreach (var owns in new[] { true, false })
            {
                Scripted first = new(), second = new();
                new LayerSkipChatClient(first, new() { OwnsModel = owns }).Dispose();
                await new LayerSkipChatClient(second, new() { OwnsModel = owns }).DisposeAsync();
                Equal((first.IsDisposed, second.IsDisposed), (owns, owns), $"owned: {owns}");
            }
        }),
    ]);

    private static void Reported(UsageDetails usage, AdditionalPropertiesDictionary statistics)
    {
        Equal((usage.InputTokenCount, usage.OutputTokenCount, usage.TotalTokenCount), (3L, usage.OutputTokenCount, 3 + usage.OutputTokenCount), "tokens");
        Equal((usage.AdditionalCounts!["drafted_tokens"], usage.AdditionalCounts["accepted_tokens"]), (8L, 5L), "drafts");
        Equal(statistics["draft_rounds"], 2, "rounds");
        Equal(statistics["draft_acceptance_rate"], 0.625, "rate");
        Equal(statistics["mean_acceptance_length"], 3.5, "length");
        Equal(statistics["time_to_first_token_ms"], 12.0, "first");
        Equal(statistics["tokens_per_second"], 99.0, "speed");
    }
}
