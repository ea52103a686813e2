using System.Globalization;
using System.Text.Json;
using LayerSkip.CSharp;
using Microsoft.Extensions.AI;

namespace LayerSkip.Extensions.AI;

/// <summary>
/// What ChatOptions.AdditionalProperties say of decoding, in the words of the command line: "exit_layer", "draft_length", and so on.
/// Other names are other clients' and count for nothing.
/// </summary>
internal static class Extras
{
    /// <summary>The names that count, and what each changes.</summary>
    public static IReadOnlyDictionary<string, Func<GenerateOptions, object, GenerateOptions>> Known { get; } =
        new Dictionary<string, Func<GenerateOptions, object, GenerateOptions>>(StringComparer.Ordinal)
        {
            ["exit_layer"] = (options, value) => options with { ExitLayer = Whole(value) },
            ["draft_length"] = (options, value) => options with { DraftLength = Whole(value) },
            ["strategy"] = (options, value) => options with { Strategy = Named(value, Enum.GetValues<Strategy>()) },
            ["policy"] = (options, value) => options with { Policy = Named(value, DraftPolicy.Static, DraftPolicy.Auto, DraftPolicy.Del) },
            ["drafter"] = (options, value) => options with
            {
                Drafter = Named(value, Drafter.Exit, Drafter.Lookup, Drafter.Adapter, Drafter.Cascade, Drafter.Layers),
            },
            ["min_p"] = (options, value) => options with { MinP = Real(value) },
            ["repetition_penalty"] = (options, value) => options with { RepetitionPenalty = Real(value) },
            ["ignore_eos"] = (options, value) => options with { IgnoreEos = Flag(value) },
            ["show_special"] = (options, value) => options with { ShowSpecial = Flag(value) },
        };

    /// <summary>The options with all that the properties say.</summary>
    /// <exception cref="ArgumentException">A value is of a kind that its name does not take.</exception>
    public static GenerateOptions Apply(GenerateOptions options, AdditionalPropertiesDictionary? properties)
    {
        foreach (var (name, value) in properties ?? [])
        {
            if (value is not null && Known.TryGetValue(name, out var change))
            {
                try
                {
                    options = change(options, value);
                }
                catch (FormatException e)
                {
                    throw new ArgumentException(
                        $"AdditionalProperties[\"{name}\"] is {value}; {e.Message}", nameof(options));
                }
            }
        }

        return options;
    }

    // What went through JSON comes back as its elements.
    private static object Plain(object value) =>
        value is JsonElement element
            ? element.ValueKind switch
            {
                JsonValueKind.Number => element.GetDouble(),
                JsonValueKind.String => element.GetString()!,
                JsonValueKind.True => true,
                JsonValueKind.False => false,
                _ => throw new FormatException("it must be a number, a text, true or false"),
            }
            : value;

    private static int Whole(object value) =>
        Number(value) is { } number && number == Math.Floor(number) && Math.Abs(number) <= int.MaxValue
            ? (int)number
            : throw new FormatException("it must be a whole number");

    private static double Real(object value) => Number(value) ?? throw new FormatException("it must be a number");

    private static bool Flag(object value) =>
        Plain(value) switch
        {
            bool flag => flag,
            string text when bool.TryParse(text, out var flag) => flag,
            _ => throw new FormatException("it must be true or false"),
        };

    /// <summary>Null where it is none. Texts are numbers where they spell one, as in settings.</summary>
    private static double? Number(object value) =>
        Plain(value) switch
        {
            string text => double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var number) ? number : null,
            bool or char or DateTime => null,
            IConvertible number => number.ToDouble(CultureInfo.InvariantCulture),
            _ => null,
        };

    /// <summary>One of these, itself or by its name: "self-speculative" is SelfSpeculative.</summary>
    private static T Named<T>(object value, params T[] all)
        where T : notnull
    {
        var given = Plain(value);
        var name = given is string text ? text.Replace("-", "", StringComparison.Ordinal).Replace("_", "", StringComparison.Ordinal) : null;
        var found = all.Where(one => one.Equals(given) || string.Equals($"{one}", name, StringComparison.OrdinalIgnoreCase)).ToArray();
        return found is [var only] ? only : throw new FormatException($"it must be one of {string.Join(", ", all)}");
    }
}
