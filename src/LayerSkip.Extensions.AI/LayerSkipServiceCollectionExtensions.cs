using LayerSkip.CSharp;
using LayerSkip.Extensions.AI;
using Microsoft.Extensions.AI;

// Where who adds services looks for what can be added.
namespace Microsoft.Extensions.DependencyInjection;

/// <summary>Adds a model and its chat client to a program's services.</summary>
public static class LayerSkipServiceCollectionExtensions
{
    /// <summary>
    /// Adds a model, as <see cref="ILayerSkipModel"/>, and its client, as <see cref="IChatClient"/> and <see cref="LayerSkipChatClient"/>:
    /// one of each, loaded when it is first asked for, and freed with the services.
    /// </summary>
    /// <param name="services">The program's services.</param>
    /// <param name="model">A Hugging Face folder, a .gguf file, or a model on the hub as "org/name".</param>
    /// <param name="load">How it is loaded.</param>
    /// <param name="chat">How it answers.</param>
    public static IServiceCollection AddLayerSkip(
        this IServiceCollection services, string model, LoadOptions? load = null, LayerSkipChatClientOptions? chat = null) =>
        services.AddLayerSkip(new LayerSkipServiceOptions { Model = model, Load = load ?? new(), Chat = chat ?? new() });

    /// <summary>As the other <c>AddLayerSkip</c>, all that can be said in one value.</summary>
    /// <param name="services">The program's services.</param>
    /// <param name="options">Which model, and how.</param>
    public static IServiceCollection AddLayerSkip(this IServiceCollection services, LayerSkipServiceOptions options)
    {
        Check(services, options);
        return services
            .AddSingleton<ILayerSkipModel>(_ => Load(options))
            .AddSingleton(provider => Client(provider.GetRequiredService<ILayerSkipModel>(), options))
            .AddSingleton<IChatClient>(provider => provider.GetRequiredService<LayerSkipChatClient>());
    }

    /// <summary>As <see cref="AddLayerSkip(IServiceCollection, string, LoadOptions?, LayerSkipChatClientOptions?)"/>, under a key.</summary>
    /// <param name="services">The program's services.</param>
    /// <param name="serviceKey">What the services are asked for by.</param>
    /// <param name="model">A Hugging Face folder, a .gguf file, or a model on the hub as "org/name".</param>
    /// <param name="load">How it is loaded.</param>
    /// <param name="chat">How it answers.</param>
    public static IServiceCollection AddKeyedLayerSkip(
        this IServiceCollection services,
        object? serviceKey,
        string model,
        LoadOptions? load = null,
        LayerSkipChatClientOptions? chat = null) =>
        services.AddKeyedLayerSkip(serviceKey, new() { Model = model, Load = load ?? new(), Chat = chat ?? new() });

    /// <summary>As the other <c>AddKeyedLayerSkip</c>, all that can be said in one value.</summary>
    /// <param name="services">The program's services.</param>
    /// <param name="serviceKey">What the services are asked for by.</param>
    /// <param name="options">Which model, and how.</param>
    public static IServiceCollection AddKeyedLayerSkip(
        this IServiceCollection services, object? serviceKey, LayerSkipServiceOptions options)
    {
        Check(services, options);
        return services
            .AddKeyedSingleton<ILayerSkipModel>(serviceKey, (_, _) => Load(options))
            .AddKeyedSingleton(
                serviceKey, (provider, key) => Client(provider.GetRequiredKeyedService<ILayerSkipModel>(key), options))
            .AddKeyedSingleton<IChatClient>(
                serviceKey, (provider, key) => provider.GetRequiredKeyedService<LayerSkipChatClient>(key));
    }

    private static void Check(IServiceCollection services, LayerSkipServiceOptions options)
    {
        ArgumentNullException.ThrowIfNull(services);
        ArgumentNullException.ThrowIfNull(options);
        ArgumentException.ThrowIfNullOrWhiteSpace(options.Model, nameof(options));
    }

    // A factory of services cannot be awaited; the model is loaded on a thread of its own, so that this waits for no other.
    private static LayerSkipModel Load(LayerSkipServiceOptions options) =>
        LayerSkipModel.LoadAsync(options.Model, options.Load).GetAwaiter().GetResult();

    // Who provides the model frees it, after the client.
    private static LayerSkipChatClient Client(ILayerSkipModel model, LayerSkipServiceOptions options) =>
        new(model, options.Chat with { OwnsModel = false });
}
