using System.Runtime.CompilerServices;
using LayerSkip.CSharp;
using Microsoft.Extensions.AI;

namespace LayerSkip.Extensions.AI;

/// <summary>
/// A model that answers in its own chat template. Any number of threads may call it; it keeps no conversations, and what a request has in
/// common with an earlier one is not computed again. Which members of <see cref="ChatOptions"/> do what is in the package's README.
/// </summary>
public sealed class LayerSkipChatClient : IChatClient, IAsyncDisposable
{
    private readonly ILayerSkipModel model;
    private readonly LayerSkipChatClientOptions settings;
    private readonly ChatClientMetadata metadata;

    /// <summary>A client of a model.</summary>
    /// <param name="model">The model; it must have a tokenizer and a chat template.</param>
    /// <param name="options">How it answers where a request says nothing else.</param>
    public LayerSkipChatClient(ILayerSkipModel model, LayerSkipChatClientOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        this.model = model;
        settings = options ?? new();
        metadata = new("layerskip", providerUri: null, settings.ModelId ?? model.Info.Name);
    }

    /// <inheritdoc/>
    /// <exception cref="NotSupportedException">The request asks for what the client does not do; the message names it.</exception>
    /// <exception cref="LayerSkipException">The messages or the options cannot be used.</exception>
    public async Task<ChatResponse> GetResponseAsync(
        IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default)
    {
        List<ChatResponseUpdate> updates = [];
        await foreach (var update in GetStreamingResponseAsync(messages, options, cancellationToken).ConfigureAwait(false))
        {
            updates.Add(update);
        }

        var response = updates.ToChatResponse();
        response.RawRepresentation = updates[^1].RawRepresentation;
        return response;
    }

    /// <inheritdoc/>
    /// <exception cref="NotSupportedException">The request asks for what the client does not do; the message names it.</exception>
    /// <exception cref="LayerSkipException">The messages or the options cannot be used.</exception>
    public IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(
        IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(messages);
        return Stream(ChatRequest.Of(this, model, settings, metadata.DefaultModelId!, messages, options), cancellationToken);
    }

    /// <inheritdoc/>
    /// <remarks>The client itself, its <see cref="ChatClientMetadata"/>, its model, and what that is (<see cref="ModelInfo"/>).</remarks>
    public object? GetService(Type serviceType, object? serviceKey = null)
    {
        ArgumentNullException.ThrowIfNull(serviceType);
        return serviceKey is not null ? null
            : serviceType == typeof(ChatClientMetadata) ? metadata
            : serviceType == typeof(ModelInfo) ? model.Info
            : serviceType.IsInstanceOfType(this) ? this
            : serviceType.IsInstanceOfType(model) ? model
            : null;
    }

    /// <summary>Frees the model, where the client owns it, once what runs on it has ended.</summary>
    public void Dispose()
    {
        if (settings.OwnsModel)
        {
            model.Dispose();
        }
    }

    /// <summary>As <see cref="Dispose"/>; once it has ended, the model's memory is free.</summary>
    public ValueTask DisposeAsync() => settings.OwnsModel ? model.DisposeAsync() : ValueTask.CompletedTask;

    private async IAsyncEnumerable<ChatResponseUpdate> Stream(
        ChatRequest request, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var (id, created) = ($"chatcmpl-{Guid.NewGuid():N}", DateTimeOffset.UtcNow);
        var answer = request.Answer();

        ChatResponseUpdate Update(IList<AIContent> contents) => new(ChatRole.Assistant, contents)
        {
            ResponseId = id,
            MessageId = id,
            ModelId = metadata.DefaultModelId,
            CreatedAt = created,
        };

        await foreach (var step in model.StreamAsync(request.PromptIds, request.Options, cancellationToken).ConfigureAwait(false))
        {
            if (answer.Add(step.Text) is { Length: > 0 } text)
            {
                yield return Update([new TextContent(text)]);
            }

            if (step.Result is { } result)
            {
                var held = answer.End();
                if (held.Count > 0)
                {
                    yield return Update([.. held]);
                }

                var last = Update([new UsageContent(Reports.Usage(result))]);

                // What follows is the response's, and not a message's.
                last.MessageId = null;
                last.FinishReason = held.Any(content => content is FunctionCallContent) ? ChatFinishReason.ToolCalls
                    : result.FinishReason == FinishReason.Length ? ChatFinishReason.Length
                    : ChatFinishReason.Stop;
                last.AdditionalProperties = Reports.Statistics(result);
                last.RawRepresentation = result;
                yield return last;
            }
        }
    }
}
