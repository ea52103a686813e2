using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Schema;
using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>
/// A form that the text is sure to have where a stop token ends it: no token is written that leads out of it. Drafts are held to it too, so that
/// speculation goes on, and writes what the whole model would under the same form.
/// </summary>
public sealed record ResponseFormat
{
    private readonly string name;
    private readonly Grammar grammar;

    private ResponseFormat(string name, Grammar grammar)
    {
        this.name = name;
        this.grammar = grammar;
    }

    /// <summary>Any JSON value.</summary>
    public static ResponseFormat Json { get; } = new("json", GrammarModule.json);

    /// <summary>Any JSON object.</summary>
    public static ResponseFormat JsonObject { get; } = new("json object", GrammarModule.jsonObject);

    /// <summary>JSON that is valid for a schema.</summary>
    /// <exception cref="LayerSkipException">It is no JSON schema, or one that no grammar here holds to.</exception>
    public static ResponseFormat JsonSchema(string schema)
    {
        ArgumentNullException.ThrowIfNull(schema);
        return new($"json schema {schema}", JsonSchemaGrammar.compile(schema).OrThrow());
    }

    /// <summary>JSON that <see cref="JsonSerializer"/> reads as a type.</summary>
    /// <param name="type">The type.</param>
    /// <param name="options">How the serializer reads; null: as it comes.</param>
    /// <exception cref="LayerSkipException">Its schema is one that no grammar here holds to.</exception>
    public static ResponseFormat JsonSchema(Type type, JsonSerializerOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(type);
        var schema = (options ?? JsonSerializerOptions.Default).GetJsonSchemaAsNode(
            type, new() { TreatNullObliviousAsNonNullable = true, TransformSchemaNode = Bounded });
        return JsonSchema(schema.ToJsonString());
    }

    /// <summary>JSON that <see cref="JsonSerializer"/> reads as a type.</summary>
    public static ResponseFormat JsonSchema<T>(JsonSerializerOptions? options = null) => JsonSchema(typeof(T), options);

    /// <summary>One of these texts, none of which is empty.</summary>
    /// <exception cref="LayerSkipException">There is none, or an empty one.</exception>
    public static ResponseFormat Choices(params IEnumerable<string> texts)
    {
        ArgumentNullException.ThrowIfNull(texts);
        string[] all = [.. texts];
        return new($"one of {JsonSerializer.Serialize(all)}", GrammarModule.choices(ListModule.OfSeq(all)).OrThrow());
    }

    /// <summary>A text that is a regular expression of ECMA-262 from beginning to end; look-around and back-references are refused.</summary>
    /// <exception cref="LayerSkipException">It is no such expression.</exception>
    public static ResponseFormat Regex(string pattern)
    {
        ArgumentNullException.ThrowIfNull(pattern);
        return new($"regex {pattern}", GrammarModule.regex(pattern).OrThrow());
    }

    /// <summary>Whether both are of the same words.</summary>
    public bool Equals(ResponseFormat? other) => name == other?.name;

    /// <summary>Of its words.</summary>
    public override int GetHashCode() => name.GetHashCode(StringComparison.Ordinal);

    /// <summary>What it is of.</summary>
    public override string ToString() => name;

    /// <summary>Whole numbers of a type end where the type does, of which a schema says nothing by itself.</summary>
    private static JsonNode Bounded(JsonSchemaExporterContext context, JsonNode schema)
    {
        var type = Nullable.GetUnderlyingType(context.TypeInfo.Type) ?? context.TypeInfo.Type;
        (decimal Least, decimal Most)? bounds = Type.GetTypeCode(type) switch
        {
            TypeCode.SByte => (sbyte.MinValue, sbyte.MaxValue),
            TypeCode.Byte => (byte.MinValue, byte.MaxValue),
            TypeCode.Int16 => (short.MinValue, short.MaxValue),
            TypeCode.UInt16 => (ushort.MinValue, ushort.MaxValue),
            TypeCode.Int32 => (int.MinValue, int.MaxValue),
            TypeCode.UInt32 => (uint.MinValue, uint.MaxValue),
            TypeCode.Int64 => (long.MinValue, long.MaxValue),
            TypeCode.UInt64 => (ulong.MinValue, ulong.MaxValue),
            _ => null,
        };
        if (bounds is { } known && schema is JsonObject numbers && numbers.ContainsKey("type") && !numbers.ContainsKey("enum"))
        {
            numbers["minimum"] = known.Least;
            numbers["maximum"] = known.Most;
        }

        return schema;
    }

    /// <summary>What may follow in a text of this form, of those that a model keeps.</summary>
    internal FSharpResult<TokenConstraint, FSharpList<LayerSkipError>> Constraint(GrammarConstraints kept, int[] stopIds) =>
        kept.Get(
            name,
            stopIds,
            FuncConvert.FromFunc(() => FSharpResult<Grammar, FSharpList<LayerSkipError>>.NewOk(grammar)));
}
